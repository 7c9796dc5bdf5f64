/**
 * Friendly advice about a request that is valid: values that the model's makers found to work
 * badly, and settings that have no effect. Only what the client said itself is advised on, never a
 * default. Thresholds belong to the model's profile; without one there is no advice.
 */
import type { Advisory, ImageRequest, ModelProfile, RequestedImage } from "./image-request.ts";

export function adviseOn(
  profile: ModelProfile,
  requested: RequestedImage,
  request: ImageRequest,
): readonly Advisory[] {
  return [
    ...adviseOnPrompt(profile, request),
    ...adviseOnNegativePrompt(requested, request),
    ...adviseOnGuidance(profile, requested.guidance),
    ...adviseOnSteps(profile, requested.steps),
    ...adviseOnSize(profile, requested, request),
    ...adviseOnSeed(requested.seed),
  ];
}

/** Words that praise without naming anything that could be drawn, and words that only join. */
const EMPTY_WORDS = new Set(
  (
    "a an the and or of in on at with to for my me some something anything thing things stuff " +
    "picture image photo art artwork please make draw create generate show very really so super " +
    "beautiful nice good great cool awesome amazing pretty best better high low quality lovely " +
    "interesting random perfect stunning masterpiece"
  ).split(" "),
);

function adviseOnPrompt(profile: ModelProfile, { prompt }: ImageRequest): readonly Advisory[] {
  const wordsLow = profile.advice.promptWordsLow;
  if (wordsLow === undefined) return [];
  const wayOut =
    "name things that can be seen, as subject, action, scene and style in short clauses, like " +
    '"a red fox, leaping over a brook, misty forest at dawn, watercolour"';
  const words = firstWords(prompt, 64);
  if (words.length < wordsLow) {
    const count = words.length === 1 ? "1 word" : `${words.length} words`;
    return [advisory("PROMPT_VAGUE", "prompt", `the prompt has ${count}: ${wayOut}`)];
  }
  if (words.some((word) => !EMPTY_WORDS.has(word))) return [];
  const message = `the prompt names nothing that can be drawn: ${wayOut}`;
  return [advisory("PROMPT_VAGUE", "prompt", message)];
}

/** In lower case; text without spaces, such as Chinese, is split by its dictionary. */
function firstWords(text: string, limit: number): readonly string[] {
  const words: string[] = [];
  for (const part of new Intl.Segmenter("en", { granularity: "word" }).segment(text)) {
    if (part.isWordLike === true) words.push(part.segment.toLowerCase());
    if (words.length === limit) break;
  }
  return words;
}

function adviseOnNegativePrompt(
  requested: RequestedImage,
  request: ImageRequest,
): readonly Advisory[] {
  const { negativePrompt, negativePrompt2, trueCfgScale } = request;
  if (negativePrompt === undefined) {
    const advisories: Advisory[] = [];
    if (negativePrompt2 !== undefined) {
      const message = "has no effect without negative_prompt: set that one too";
      advisories.push(advisory("NEGATIVE_PROMPT_UNUSED", "negative_prompt_2", message));
    }
    if (requested.trueCfgScale !== undefined && trueCfgScale > 1) {
      const message =
        `${trueCfgScale} has no effect without negative_prompt: set one, usual is ` +
        '"blurry, distorted, low quality, extra limbs" (it may be empty)';
      advisories.push(advisory("TRUE_CFG_UNUSED", "true_cfg_scale", message));
    }
    return advisories;
  }
  if (trueCfgScale > 1) return [];
  const message = `has no effect while true_cfg_scale is ${trueCfgScale}: set it above 1, like 4`;
  return [advisory("NEGATIVE_PROMPT_UNUSED", "negative_prompt", message)];
}

function adviseOnGuidance(
  profile: ModelProfile,
  guidance: number | undefined,
): readonly Advisory[] {
  const field = "guidance_scale";
  if (guidance === undefined) return [];
  if (!profile.guidanceEmbedded) {
    const message =
      `${guidance} has no effect: ${profile.name} has no guidance embedding; ` +
      "use true_cfg_scale with a negative_prompt";
    return [advisory("GUIDANCE_UNUSED", field, message)];
  }
  const { guidanceLow, guidanceHigh } = profile.advice;
  if (guidanceLow !== undefined && guidance < guidanceLow) {
    const message = `${guidance} drifts from the prompt: try ${guidanceLow} or more`;
    return [advisory("GUIDANCE_LOW", field, message)];
  }
  if (guidanceHigh !== undefined && guidance > guidanceHigh) {
    const message = `${guidance} over-sharpens: try ${guidanceHigh} or less`;
    return [advisory("GUIDANCE_HIGH", field, message)];
  }
  return [];
}

function adviseOnSteps(profile: ModelProfile, steps: number | undefined): readonly Advisory[] {
  const field = "num_inference_steps";
  const { stepsLow, stepsHigh } = profile.advice;
  if (steps === undefined) return [];
  if (stepsLow !== undefined && steps < stepsLow) {
    const message = `${steps} steps may blur the picture: try ${stepsLow} or more`;
    return [advisory("STEPS_LOW", field, message)];
  }
  if (stepsHigh !== undefined && steps > stepsHigh) {
    const message = `more than ${stepsHigh} steps rarely pay: ${steps} take longer for no gain`;
    return [advisory("STEPS_HIGH", field, message)];
  }
  return [];
}

function adviseOnSize(
  profile: ModelProfile,
  requested: RequestedImage,
  { width, height }: ImageRequest,
): readonly Advisory[] {
  const { sizeLow } = profile.advice;
  const asked = requested.width ?? requested.height ?? requested.aspectRatio;
  if (asked === undefined || sizeLow === undefined || Math.min(width, height) >= sizeLow) return [];
  const best = `${profile.defaultWidth} x ${profile.defaultHeight}`;
  const message = `below ${sizeLow} pixels the composition may break: ${best} works best`;
  return [advisory("SIZE_SMALL", width <= height ? "width" : "height", message)];
}

function adviseOnSeed(seed: bigint | undefined): readonly Advisory[] {
  if (seed === undefined || (seed >= 0n && seed < 2n ** 32n)) return [];
  const low = BigInt.asUintN(32, seed);
  const message = `only its low 32 bits count: ${seed} gives the same picture as ${low}`;
  return [advisory("SEED_TRUNCATED", "seed", message)];
}

function advisory(reason: string, field: string, message: string): Advisory {
  return { reason, field, message };
}
