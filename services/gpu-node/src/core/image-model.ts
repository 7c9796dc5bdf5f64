/**
 * What the engine knows of a model. A family (FLUX.1 is the first) turns a checkpoint folder into
 * an `ImageModel`; driver, batcher and runner work on this interface and never learn which family
 * runs. Everything here is pure and synchronous: the same arguments give the same bits.
 *
 *   request --resolve--> ImageRequest --plan--> ImagePlan
 *     plan.encodings       graph runs that turn text into conditioning (cached by key)
 *     plan.initialLatents  noise, one array per image unit
 *     step k               plan.rowInputs(k, latents) + conditioning + plan.sharedInputs
 *                          -> denoiser stages -> prediction -> plan.advance(k, ...)
 *     end                  plan.decodeInputs(latents) -> decoder graph -> plan.pixels(output)
 */
import type { FieldViolation } from "@fluxline/kernel/error.ts";
import type { NamedTensors, Tensor, TensorType } from "./tensor.ts";

/** A graph input or output; a string stands for a dimension that is known only at run time. */
export interface TensorSpec {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly (number | string)[];
}

/** One ONNX graph whose weights are byte ranges of the checkpoint's own files. */
export interface Graph {
  readonly name: string;
  readonly onnx: Uint8Array;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** Bytes of its weights in the run type, once loaded. */
  readonly weightBytes: number;
}

/** A request as it came: only what the client said. Absent fields take the model's defaults. */
export interface RequestedImage {
  readonly prompt: string;
  readonly prompt2?: string | undefined;
  readonly negativePrompt?: string | undefined;
  readonly negativePrompt2?: string | undefined;
  readonly trueCfgScale?: number | undefined;
  readonly width?: number | undefined;
  readonly height?: number | undefined;
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

/** One run of one graph; `outputs` maps its output names to conditioning names. */
export interface GraphRun {
  readonly graph: string;
  readonly inputs: NamedTensors;
  readonly outputs: Readonly<Record<string, string>>;
}

/**
 * Text that must become conditioning. Equal keys mean equal conditioning (same text, same model,
 * same length). The conditioning tensors have a batch dimension of 1 and the names of the
 * denoiser's inputs.
 */
export interface TextEncoding {
  readonly key: string;
  readonly runs: readonly GraphRun[];
}

/** The passes of one step: one, or two where true classifier-free guidance is on. */
export type Pass = "positive" | "negative";

/** Pixels of one finished image: RGB, 8 bits, row by row. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly rgb: Uint8Array;
}

export interface ImagePlan {
  readonly request: ImageRequest;
  readonly advisories: readonly Advisory[];
  /** Requests with equal keys can share a micro-batch: same graph shapes, same shared inputs. */
  readonly shapeKey: string;
  /** Step boundaries are 0 .. steps; step k goes from boundary k to k + 1. */
  readonly steps: number;
  readonly latentDims: readonly number[];
  readonly encodings: { readonly positive: TextEncoding; readonly negative?: TextEncoding };

  /** Packed latents at boundary 0, one array per image unit, drawn in order from one generator. */
  initialLatents(): readonly Float32Array[];
  /** Inputs without a batch dimension (position tables), equal for all rows of a shape key. */
  sharedInputs(): NamedTensors;
  /** This row's inputs of step k for either pass, batch dimension 1. */
  rowInputs(step: number, latents: Float32Array): NamedTensors;
  /** Latents at boundary k + 1 from those at k and the denoiser's prediction of each pass. */
  advance(
    step: number,
    latents: Float32Array,
    predictions: { readonly positive: Float32Array; readonly negative?: Float32Array },
  ): Float32Array;
  decodeInputs(latents: Float32Array): NamedTensors;
  /** The decoder's output, [1, 3, height, width] in -1 .. 1, as 8-bit RGB. */
  pixels(decoded: Tensor): Pixels;
}

export interface ImageModel {
  readonly profile: ModelProfile;
  /** All graphs of the model by name; text encoders, denoiser stages, decoder. */
  readonly graphs: ReadonlyMap<string, Graph>;
  /** The denoiser as a chain: the outputs of each feed the next; the last gives `prediction`. */
  readonly denoiser: readonly string[];
  /** Name of the denoiser's output tensor, [batch, ...latentDims]. */
  readonly prediction: string;
  readonly decoder: string;
  /** Name of the decoder's output tensor. */
  readonly decoded: string;
  /** The request is one that `resolve` accepted for this model. */
  plan(request: ImageRequest): ImagePlan;
}
