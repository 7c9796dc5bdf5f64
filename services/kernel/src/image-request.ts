/**
 * What a client may ask of a model, and the profile that says so. Pure and shared by the scheduler
 * (which validates from a stored profile, also while a pool has no group) and the GPU node (which
 * checks again what it is given). One function decides: `resolveRequest`.
 */
import { assert } from "./assert.ts";
import type { FieldViolation } from "./error.ts";
import { adviseOn } from "./image-advice.ts";
import { PREVIEW_COUNT_MAX, previewsPossible } from "./image-previews.ts";
import { resolveSize } from "./image-size.ts";
import type { MemoryBound } from "./memory-bound.ts";
import { memoryViolations } from "./memory-fit.ts";

/** A request as it came: only what the client said. Absent fields take the model's defaults. */
export interface RequestedImage {
  readonly prompt: string;
  readonly prompt2?: string | undefined;
  readonly negativePrompt?: string | undefined;
  readonly negativePrompt2?: string | undefined;
  readonly trueCfgScale?: number | undefined;
  readonly width?: number | undefined;
  readonly height?: number | undefined;
  /** `W:H`; excludes width and height. */
  readonly aspectRatio?: string | undefined;
  readonly steps?: number | undefined;
  readonly guidance?: number | undefined;
  readonly seed?: bigint | undefined;
  readonly maxSequenceLength?: number | undefined;
  readonly imageCount?: number | undefined;
  readonly previewCount?: number | undefined;
}

/** A request with every default filled in and every limit checked: enough to repeat it. */
export interface ImageRequest {
  readonly prompt: string;
  /** Text for the second encoder; equals `prompt` unless the client gave a non-empty one. */
  readonly prompt2: string;
  /** Present exactly when the client gave one (an empty one counts). */
  readonly negativePrompt: string | undefined;
  readonly negativePrompt2: string | undefined;
  readonly trueCfgScale: number;
  readonly width: number;
  readonly height: number;
  readonly steps: number;
  readonly guidance: number;
  /** 0 .. 2^64 - 1; torch uses the low 32 bits for CPU noise. */
  readonly seed: bigint;
  readonly maxSequenceLength: number;
  readonly imageCount: number;
  /** Previews of each image while it runs; less than `steps`. */
  readonly previewCount: number;
}

/** Friendly advice that never stops a request. */
export interface Advisory {
  /** Stable, UPPER_SNAKE_CASE. */
  readonly reason: string;
  readonly field: string;
  readonly message: string;
}

export type Resolution =
  | { readonly ok: true; readonly request: ImageRequest; readonly advisories: readonly Advisory[] }
  | {
      readonly ok: false;
      readonly violations: readonly FieldViolation[];
      /** DOES_NOT_FIT: every field is within its limits, and the devices lack the memory. */
      readonly reason: "INVALID_REQUEST" | "DOES_NOT_FIT";
    };

/** Limits, defaults and advice of a model: all that validation needs, so that it can be stored. */
export interface ModelProfile {
  readonly family: string;
  /** Short name for people, like `flux-tiny`. */
  readonly name: string;
  /** sha256 over the configs and the safetensors headers and sizes; hex. */
  readonly digest: string;
  readonly sizeMultiple: number;
  readonly minSize: number;
  readonly maxSize: number;
  readonly maxPixels: number;
  readonly defaultWidth: number;
  readonly defaultHeight: number;
  readonly minSteps: number;
  readonly maxSteps: number;
  readonly defaultSteps: number;
  /** False when the checkpoint has no guidance embedding; the value is then without effect. */
  readonly guidanceEmbedded: boolean;
  readonly defaultGuidance: number;
  readonly maxGuidance: number;
  readonly defaultMaxSequenceLength: number;
  readonly maxSequenceLengthMax: number;
  readonly maxImageCount: number;
  readonly maxPromptBytes: number;
  readonly advice: AdviceThresholds;
  /** One for each device of a group; empty where nobody has said what memory there is. */
  readonly memory: readonly MemoryBound[];
}

/** Absent thresholds give no advice. Values for FLUX.1-dev: reference of the family. */
export interface AdviceThresholds {
  readonly guidanceLow?: number;
  readonly guidanceHigh?: number;
  readonly stepsLow?: number;
  readonly stepsHigh?: number;
  readonly sizeLow?: number;
  readonly promptWordsLow?: number;
}

const SEED_END = 2n ** 64n;
const SEED_LOWEST = -(2n ** 63n);

/**
 * Fills in the model's defaults and checks every limit. All violations are listed at once, under
 * the field names of the public API. `drawnSeed` (0 .. 2^64 - 1) is taken if none was given.
 */
export function resolveRequest(
  profile: ModelProfile,
  requested: RequestedImage,
  drawnSeed: bigint,
): Resolution {
  assert(drawnSeed >= 0n && drawnSeed < SEED_END, `drawn seed ${drawnSeed}`);
  const size = resolveSize(profile, requested);
  const violations = [
    ...textViolations(profile, requested),
    ...(size.ok ? [] : size.violations),
    ...numberViolations(profile, requested),
  ];
  if (!size.ok || violations.length > 0) {
    return { ok: false, violations, reason: "INVALID_REQUEST" };
  }
  const steps = requested.steps ?? profile.defaultSteps;
  const request: ImageRequest = {
    prompt: requested.prompt,
    prompt2: requested.prompt2 || requested.prompt,
    negativePrompt: requested.negativePrompt,
    negativePrompt2: requested.negativePrompt2,
    trueCfgScale: requested.trueCfgScale ?? 1,
    width: size.size.width,
    height: size.size.height,
    steps,
    guidance: requested.guidance ?? profile.defaultGuidance,
    seed: BigInt.asUintN(64, requested.seed ?? drawnSeed),
    maxSequenceLength: requested.maxSequenceLength ?? profile.defaultMaxSequenceLength,
    imageCount: requested.imageCount ?? 1,
    previewCount: previewsPossible(requested.previewCount ?? 0, steps),
  };
  const unfit = memoryViolations(profile, requested, request);
  if (unfit.length > 0) return { ok: false, violations: unfit, reason: "DOES_NOT_FIT" };
  return { ok: true, request, advisories: adviseOn(profile, requested, request) };
}

function textViolations(
  profile: ModelProfile,
  requested: RequestedImage,
): readonly FieldViolation[] {
  const { maxPromptBytes } = profile;
  return [
    ...oneTextViolation("prompt", requested.prompt, maxPromptBytes),
    ...oneTextViolation("prompt_2", requested.prompt2, maxPromptBytes),
    ...oneTextViolation("negative_prompt", requested.negativePrompt, maxPromptBytes),
    ...oneTextViolation("negative_prompt_2", requested.negativePrompt2, maxPromptBytes),
  ];
}

/** A surrogate without its partner, or a control character other than tab and line ends. */
// oxlint-disable-next-line no-control-regex
const REFUSED_CHARACTER = /[\p{Cs}\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/u;

function oneTextViolation(
  field: string,
  text: string | undefined,
  maxBytes: number,
): readonly FieldViolation[] {
  if (text === undefined) return [];
  const bytes = new TextEncoder().encode(text).length;
  if (bytes > maxBytes) {
    const description = `has ${bytes} bytes; shorten it to at most ${maxBytes} bytes of UTF-8`;
    return [{ field, description }];
  }
  const index = text.search(REFUSED_CHARACTER);
  if (index < 0) return [];
  const code = text.codePointAt(index)!;
  const kind = code >= 0xd800 ? "half of a surrogate pair" : "a control character";
  const hex = code.toString(16).toUpperCase().padStart(4, "0");
  const position = Array.from(text.slice(0, index)).length + 1;
  const description = `character ${position} is U+${hex}, ${kind}; remove it`;
  return [{ field, description }];
}

function numberViolations(
  profile: ModelProfile,
  requested: RequestedImage,
): readonly FieldViolation[] {
  const { minSteps, maxSteps, maxGuidance, maxSequenceLengthMax, maxImageCount } = profile;
  return [
    ...rangeViolation("true_cfg_scale", requested.trueCfgScale, 0, maxGuidance),
    ...wholeViolation("num_inference_steps", requested.steps, minSteps, maxSteps),
    ...rangeViolation("guidance_scale", requested.guidance, 0, maxGuidance),
    ...seedViolation(requested.seed),
    ...wholeViolation("max_sequence_length", requested.maxSequenceLength, 1, maxSequenceLengthMax),
    ...wholeViolation("image_count", requested.imageCount, 1, maxImageCount),
    ...wholeViolation("preview_count", requested.previewCount, 0, PREVIEW_COUNT_MAX),
  ];
}

function rangeViolation(
  field: string,
  value: number | undefined,
  low: number,
  high: number,
): readonly FieldViolation[] {
  if (value === undefined || (value >= low && value <= high)) return [];
  return [{ field, description: `is ${value}; use a number from ${low} to ${high}` }];
}

function wholeViolation(
  field: string,
  value: number | undefined,
  low: number,
  high: number,
): readonly FieldViolation[] {
  if (value === undefined || (Number.isInteger(value) && value >= low && value <= high)) return [];
  return [{ field, description: `is ${value}; use a whole number from ${low} to ${high}` }];
}

/** Negative seeds mean what they mean to torch: -1 is 2^64 - 1. */
function seedViolation(seed: bigint | undefined): readonly FieldViolation[] {
  if (seed === undefined || (seed >= SEED_LOWEST && seed < SEED_END)) return [];
  return [
    { field: "seed", description: `is ${seed}; use a whole number from 0 to ${SEED_END - 1n}` },
  ];
}
