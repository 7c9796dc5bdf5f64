/**
 * What a client may ask of a model, and the profile that says so. Pure and shared by the scheduler
 * (which validates from a stored profile, also while a pool has no group) and the GPU node (which
 * checks again what it is given). One function decides: `resolveRequest`.
 */
import type { FieldViolation } from "./error.ts";

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
  | { readonly ok: false; readonly violations: readonly FieldViolation[] };

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
