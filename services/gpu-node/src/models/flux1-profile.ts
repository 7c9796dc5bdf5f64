/**
 * Limits, defaults and advice of a FLUX.1 checkpoint. The advice is what FLUX.1-dev's users found;
 * it is given for models of its size only, because small ones have other habits.
 */
import type { AdviceThresholds, ModelProfile } from "@fluxline/kernel/image-request.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import { PATCH } from "../core/latents.ts";
import type { RunType } from "../onnx/graph.ts";
import type { Flux1Parts } from "./flux1-parts.ts";

/** What an operator may set; the rest follows from the checkpoint. */
export interface Flux1Limits {
  readonly maxSize: number;
  readonly maxPixels: number;
  readonly maxSteps: number;
  readonly maxSequenceLengthMax: number;
  readonly maxImageCount: number;
  readonly maxPromptBytes: number;
}

export const FLUX1_LIMITS: Flux1Limits = {
  maxSize: 2048,
  maxPixels: 2048 * 2048,
  maxSteps: 1000,
  maxSequenceLengthMax: 512,
  maxImageCount: 10,
  maxPromptBytes: 16_384,
};

const FULL_WIDTH = 3072;
const FULL_SIZE = 1024;
const SMALL_SIZE_END = 512;
const GUIDANCE_DEFAULT = 3.5;
const GUIDANCE_MAX = 100;
/** The network multiplies the guidance by 1000, and float16 ends at 65504. */
const GUIDANCE_MAX_FLOAT16 = 65;

const FULL_SIZE_ADVICE: AdviceThresholds = {
  guidanceLow: 3,
  guidanceHigh: 7,
  stepsLow: 30,
  stepsHigh: 70,
  sizeLow: 768,
  promptWordsLow: 4,
};
/** FLUX.1-schnell and its kind: few steps, no guidance. */
const DISTILLED_ADVICE: AdviceThresholds = { stepsHigh: 8, sizeLow: 768, promptWordsLow: 4 };

export function flux1Profile(
  checkpoint: Checkpoint,
  parts: Flux1Parts,
  runType: RunType,
  limits: Flux1Limits,
): ModelProfile {
  const sizeMultiple = parts.vae.scale * PATCH;
  const { guidance } = parts.transformer;
  const size = defaultSize(parts, sizeMultiple, limits);
  const length = parts.t5Tokenizer.lengthMax ?? limits.maxSequenceLengthMax;
  return {
    ...limits,
    family: "flux1",
    name: checkpoint.name,
    digest: checkpoint.digest,
    sizeMultiple,
    minSize: sizeMultiple,
    defaultWidth: size,
    defaultHeight: size,
    minSteps: 1,
    defaultSteps: flux1Steps(guidance),
    guidanceEmbedded: guidance,
    defaultGuidance: GUIDANCE_DEFAULT,
    maxGuidance: runType === "float16" ? GUIDANCE_MAX_FLOAT16 : GUIDANCE_MAX,
    defaultMaxSequenceLength: Math.min(length, limits.maxSequenceLengthMax),
    advice: advice(parts),
    memory: [],
  };
}

/** Models with embedded guidance take many steps; distilled ones few. */
export function flux1Steps(guidance: boolean): number {
  return guidance ? 28 : 4;
}

/** What the autoencoder was made for if that is small, as in models for tests and demos. */
function defaultSize({ components, vae }: Flux1Parts, multiple: number, limits: Flux1Limits) {
  const trained = components.vae.config.integer("sample_size", { min: 1, fallback: FULL_SIZE });
  const wanted = trained < SMALL_SIZE_END ? Math.max(trained, vae.scale) : FULL_SIZE;
  const largest = Math.min(limits.maxSize, Math.sqrt(limits.maxPixels));
  return Math.max(1, Math.floor(Math.min(wanted, largest) / multiple)) * multiple;
}

function advice({ transformer }: Flux1Parts): AdviceThresholds {
  if (transformer.width < FULL_WIDTH) return {};
  return transformer.guidance ? FULL_SIZE_ADVICE : DISTILLED_ADVICE;
}
