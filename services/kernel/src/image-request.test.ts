import { describe, expect, test } from "vitest";
import {
  type ModelProfile,
  type RequestedImage,
  type Resolution,
  resolveRequest,
} from "./image-request.ts";

/** Limits and advice as for FLUX.1-dev. */
const PROFILE: ModelProfile = {
  family: "flux1",
  name: "flux-dev",
  digest: "00",
  sizeMultiple: 16,
  minSize: 16,
  maxSize: 2048,
  maxPixels: 2_097_152,
  defaultWidth: 1024,
  defaultHeight: 1024,
  minSteps: 1,
  maxSteps: 200,
  defaultSteps: 28,
  guidanceEmbedded: true,
  defaultGuidance: 3.5,
  maxGuidance: 100,
  defaultMaxSequenceLength: 512,
  maxSequenceLengthMax: 512,
  maxImageCount: 10,
  maxPromptBytes: 16_384,
  memory: [],
  advice: {
    guidanceLow: 3,
    guidanceHigh: 7,
    stepsLow: 30,
    stepsHigh: 70,
    sizeLow: 768,
    promptWordsLow: 4,
  },
};
const PROMPT = "a red fox leaping over a brook, watercolour";
const DRAWN = 77n;

function resolve(
  requested: Partial<RequestedImage>,
  profile: Partial<ModelProfile> = {},
): Resolution {
  return resolveRequest({ ...PROFILE, ...profile }, { prompt: PROMPT, ...requested }, DRAWN);
}

function accepted(requested: Partial<RequestedImage>, profile: Partial<ModelProfile> = {}) {
  const resolution = resolve(requested, profile);
  if (resolution.ok) return resolution;
  throw new Error(JSON.stringify(resolution.violations));
}

function refused(requested: Partial<RequestedImage>, profile: Partial<ModelProfile> = {}) {
  const resolution = resolve(requested, profile);
  if (!resolution.ok) return resolution.violations;
  throw new Error("the request was accepted");
}

test("a prompt alone takes every default of the model and the drawn seed", () => {
  expect(accepted({})).toEqual({
    ok: true,
    request: {
      prompt: PROMPT,
      prompt2: PROMPT,
      negativePrompt: undefined,
      negativePrompt2: undefined,
      trueCfgScale: 1,
      width: 1024,
      height: 1024,
      steps: 28,
      guidance: 3.5,
      seed: DRAWN,
      maxSequenceLength: 512,
      imageCount: 1,
      previewCount: 0,
    },
    advisories: [],
  });
});

describe("what the client said is kept:", () => {
  const cases: Record<string, [Partial<RequestedImage>, object]> = {
    "an empty prompt_2 falls back to the prompt": [{ prompt2: "" }, { prompt2: PROMPT }],
    "another prompt_2": [{ prompt2: "a brook" }, { prompt: PROMPT, prompt2: "a brook" }],
    "an empty negative prompt counts": [
      { negativePrompt: "", trueCfgScale: 4 },
      { negativePrompt: "", negativePrompt2: undefined, trueCfgScale: 4 },
    ],
    "one side alone": [{ width: 512 }, { width: 512, height: 1024 }],
    "guidance 0": [{ guidance: 0 }, { guidance: 0 }],
    "the highest seed": [{ seed: 2n ** 64n - 1n }, { seed: 2n ** 64n - 1n }],
    "seed -1 is 2^64 - 1": [{ seed: -1n }, { seed: 2n ** 64n - 1n }],
    "seed 0": [{ seed: 0n }, { seed: 0n }],
    "tabs and line ends": [{ prompt: "a\tb\r\nc" }, { prompt: "a\tb\r\nc" }],
    previews: [{ previewCount: 5 }, { previewCount: 5 }],
    "previews, but none of the last step": [{ previewCount: 5, steps: 3 }, { previewCount: 2 }],
    "characters beyond the basic plane": [{ prompt: "a 🦊 fox" }, { prompt: "a 🦊 fox" }],
  };
  for (const [name, [requested, expected]] of Object.entries(cases)) {
    test(name, () => expect(accepted(requested).request).toMatchObject(expected));
  }
});

describe("an aspect ratio picks the size of about the default area:", () => {
  const cases: Record<string, [width: number, height: number]> = {
    "1:1": [1024, 1024],
    "16:9": [1360, 768],
    "9:16": [768, 1360],
    "3:2": [1248, 832],
    "21:9": [1568, 672],
    "4:1": [2048, 512],
    "1.5:1": [1248, 832],
  };
  for (const [aspectRatio, [width, height]] of Object.entries(cases)) {
    test(aspectRatio, () => {
      const { request } = accepted({ aspectRatio });
      expect([request.width, request.height]).toEqual([width, height]);
    });
  }

  test("never more pixels than the model makes", () => {
    const { request } = accepted({ aspectRatio: "1.3:1" }, { maxPixels: 1024 * 1024 });
    expect(request.width * request.height).toBeLessThanOrEqual(1024 * 1024);
  });
});

describe("one wrong value is answered with the value, the rule and the way out:", () => {
  const side = "use a multiple of 16 from 16 to 2048; the nearest is";
  const cases: Record<string, [Partial<RequestedImage>, field: string, description: string]> = {
    "width 0": [{ width: 0 }, "width", `is 0; ${side} 16`],
    "negative width": [{ width: -64 }, "width", `is -64; ${side} 16`],
    "width 7": [{ width: 7 }, "width", `is 7; ${side} 16`],
    "height 65": [{ height: 65 }, "height", `is 65; ${side} 64`],
    "height 73": [{ height: 73 }, "height", `is 73; ${side} 80`],
    "width 100000": [{ width: 100_000 }, "width", `is 100000; ${side} 2048`],
    "width 64.5": [{ width: 64.5 }, "width", `is 64.5; ${side} 64`],
    "width NaN": [{ width: NaN }, "width", "is NaN; use a multiple of 16 from 16 to 2048"],
    "too many pixels": [
      { width: 2048, height: 2048 },
      "width",
      "2048 x 2048 is 4194304 pixels; use at most 2097152, for example 1440 x 1456",
    ],
    "an aspect ratio beside a height": [
      { aspectRatio: "1:1", height: 64 },
      "aspect_ratio",
      'is "1:1" beside a width or height; give either aspect_ratio, or width and height',
    ],
    "an aspect ratio of letters": [
      { aspectRatio: "wide" },
      "aspect_ratio",
      'is "wide"; use two numbers above 0, like 16:9 or 1:1',
    ],
    "an aspect ratio with 0": [
      { aspectRatio: "0:1" },
      "aspect_ratio",
      'is "0:1"; use two numbers above 0, like 16:9 or 1:1',
    ],
    "an aspect ratio beyond the sizes": [
      { aspectRatio: "100:1" },
      "aspect_ratio",
      'is "100:1"; use a ratio between 1:4 and 4:1',
    ],
    "steps 0": [{ steps: 0 }, "num_inference_steps", "is 0; use a whole number from 1 to 200"],
    "steps 10^6": [
      { steps: 1e6 },
      "num_inference_steps",
      "is 1000000; use a whole number from 1 to 200",
    ],
    "steps 2.5": [
      { steps: 2.5 },
      "num_inference_steps",
      "is 2.5; use a whole number from 1 to 200",
    ],
    "guidance NaN": [{ guidance: NaN }, "guidance_scale", "is NaN; use a number from 0 to 100"],
    "guidance Infinity": [
      { guidance: Infinity },
      "guidance_scale",
      "is Infinity; use a number from 0 to 100",
    ],
    "negative true CFG": [
      { trueCfgScale: -1 },
      "true_cfg_scale",
      "is -1; use a number from 0 to 100",
    ],
    "seed 2^64": [
      { seed: 2n ** 64n },
      "seed",
      "is 18446744073709551616; use a whole number from 0 to 18446744073709551615",
    ],
    "a text length of 513": [
      { maxSequenceLength: 513 },
      "max_sequence_length",
      "is 513; use a whole number from 1 to 512",
    ],
    "no image": [{ imageCount: 0 }, "image_count", "is 0; use a whole number from 1 to 10"],
    "a prompt of 1 MB": [
      { prompt: "x".repeat(1_000_000) },
      "prompt",
      "has 1000000 bytes; shorten it to at most 16384 bytes of UTF-8",
    ],
    "a prompt that is short in letters and long in bytes": [
      { prompt2: "é".repeat(8193) },
      "prompt_2",
      "has 16386 bytes; shorten it to at most 16384 bytes of UTF-8",
    ],
    "a bell": [
      { prompt: "🦊 ding\u0007" },
      "prompt",
      "character 7 is U+0007, a control character; remove it",
    ],
    "a C1 control character": [
      { negativePrompt: "\u0085" },
      "negative_prompt",
      "character 1 is U+0085, a control character; remove it",
    ],
    "half of a surrogate pair": [
      { negativePrompt2: "ab\ud83e" },
      "negative_prompt_2",
      "character 3 is U+D83E, half of a surrogate pair; remove it",
    ],
  };
  for (const [name, [requested, field, description]] of Object.entries(cases)) {
    test(name, () => expect(refused(requested)).toEqual([{ field, description }]));
  }
});

test("all wrong fields are listed at once", () => {
  const violations = refused({
    prompt: "\u0000",
    prompt2: "\u0000",
    negativePrompt: "\u0000",
    negativePrompt2: "\u0000",
    trueCfgScale: NaN,
    width: 7,
    height: 7,
    steps: 0,
    guidance: -1,
    seed: 2n ** 64n,
    maxSequenceLength: 0,
    imageCount: 99,
  });
  expect(violations.map((violation) => violation.field)).toEqual([
    "prompt",
    "prompt_2",
    "negative_prompt",
    "negative_prompt_2",
    "width",
    "height",
    "true_cfg_scale",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "max_sequence_length",
    "image_count",
  ]);
});

describe("advice:", () => {
  const cases: Record<string, [Partial<RequestedImage>, reason: string, field: string]> = {
    "guidance 2": [{ guidance: 2 }, "GUIDANCE_LOW", "guidance_scale"],
    "guidance 8": [{ guidance: 8 }, "GUIDANCE_HIGH", "guidance_scale"],
    "20 steps": [{ steps: 20 }, "STEPS_LOW", "num_inference_steps"],
    "80 steps": [{ steps: 80 }, "STEPS_HIGH", "num_inference_steps"],
    "512 wide": [{ width: 512 }, "SIZE_SMALL", "width"],
    "512 high": [{ height: 512 }, "SIZE_SMALL", "height"],
    "an empty prompt": [{ prompt: "" }, "PROMPT_VAGUE", "prompt"],
    "a prompt of one word": [{ prompt: "fox" }, "PROMPT_VAGUE", "prompt"],
    "a prompt of praise": [
      { prompt: "a very beautiful awesome picture" },
      "PROMPT_VAGUE",
      "prompt",
    ],
    "a negative prompt without true CFG": [
      { negativePrompt: "blurry" },
      "NEGATIVE_PROMPT_UNUSED",
      "negative_prompt",
    ],
    "a second negative prompt alone": [
      { negativePrompt2: "blurry" },
      "NEGATIVE_PROMPT_UNUSED",
      "negative_prompt_2",
    ],
    "true CFG without a negative prompt": [
      { trueCfgScale: 4 },
      "TRUE_CFG_UNUSED",
      "true_cfg_scale",
    ],
    "a seed of 33 bits": [{ seed: 2n ** 32n + 5n }, "SEED_TRUNCATED", "seed"],
    "a negative seed": [{ seed: -1n }, "SEED_TRUNCATED", "seed"],
  };
  for (const [name, [requested, reason, field]] of Object.entries(cases)) {
    test(name, () => expect(accepted(requested).advisories).toMatchObject([{ reason, field }]));
  }

  test("guidance for a model without guidance embedding", () => {
    expect(accepted({ guidance: 3.5 }, { guidanceEmbedded: false }).advisories).toMatchObject([
      { reason: "GUIDANCE_UNUSED", field: "guidance_scale" },
    ]);
  });

  const silent: Record<string, Partial<RequestedImage>> = {
    "values on the thresholds": { guidance: 3, steps: 30, width: 768 },
    "true CFG with an empty negative prompt": { trueCfgScale: 4, negativePrompt: "" },
    "true CFG 1": { trueCfgScale: 1 },
    "a prompt in Chinese": { prompt: "一只红色的狐狸跳过小溪" },
  };
  for (const [name, requested] of Object.entries(silent)) {
    test(`none for ${name}`, () => expect(accepted(requested).advisories).toEqual([]));
  }

  test("none without thresholds", () => {
    const requested = { guidance: 1, steps: 2, width: 64, prompt: "" };
    expect(accepted(requested, { advice: {} }).advisories).toEqual([]);
  });
});
