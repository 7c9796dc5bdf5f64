/**
 * What the engine knows of a model. A family (FLUX.1 is the first) turns a checkpoint folder into
 * an `ImageModel`; driver, batcher and runner work on this interface and never learn which family
 * runs. Everything here is pure and synchronous: the same arguments give the same bits.
 *
 *   RequestedImage --resolveRequest (kernel)--> ImageRequest --plan--> ImagePlan
 *     plan.encodings       graph runs that turn text into conditioning (cached by key)
 *     plan.initialLatents  noise, one array per image unit
 *     step k               plan.rowInputs(k, latents) + conditioning + plan.sharedInputs
 *                          -> denoiser stages -> prediction -> plan.advance(k, ...)
 *     preview              plan.estimate(k, ...) -> plan.cells -> a linear map to colours
 *     end                  plan.decodeInputs(latents) -> decoder graph -> plan.pixels(output)
 */
import type { Advisory, ImageRequest, ModelProfile } from "@fluxline/kernel/image-request.ts";
import type { QuantisedFile } from "./quantised-file.ts";
import type { NamedTensors, Tensor, TensorType } from "./tensor.ts";

/**
 * A graph input or output; a string stands for a dimension that is known only at run time: a name,
 * a product like `8*h`, or a difference like `S-text_length`, where the latter is an input's value.
 */
export interface TensorSpec {
  readonly name: string;
  readonly type: TensorType;
  readonly dims: readonly (number | string)[];
}

/** One ONNX graph whose weights are byte ranges of files, as a runtime loads it. */
export interface GraphDefinition {
  readonly name: string;
  readonly onnx: Uint8Array;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** Bytes of its weights in the run type, once loaded. */
  readonly weightBytes: number;
}

export interface Graph extends GraphDefinition {
  /** Where its weights lie in the checkpoint, those below aside: there before it is loaded. */
  readonly weights: readonly FileRange[];
  /**
   * Files that must be there too, and are made of the checkpoint: `source` of each of their tensors
   * is needed only to make the file.
   */
  readonly quantised: readonly QuantisedFile[];
}

export interface FileRange {
  /** Absolute path. */
  readonly file: string;
  readonly offset: number;
  readonly length: number;
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

/** What the denoiser says of one image in one step; `negative` where the plan has that pass. */
export interface Predictions {
  readonly positive: Float32Array;
  readonly negative?: Float32Array;
}

/** Pixels of one finished image: RGB, 8 bits, row by row. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly rgb: Uint8Array;
}

/** Latents by cell: the decoder makes one square of pixels of each. */
export interface LatentCells {
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  /** [channels, height, width], scaled so that each channel varies by about 1. */
  readonly values: Float32Array;
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

  /**
   * Packed latents at boundary 0, one array per image unit, drawn in order from one generator when
   * they are asked for.
   */
  initialLatents(): Iterable<Float32Array>;
  /** Inputs without a batch dimension (position tables), equal for all rows of a shape key. */
  sharedInputs(): NamedTensors;
  /** This row's inputs of step k for either pass, batch dimension 1. */
  rowInputs(step: number, latents: Float32Array): NamedTensors;
  /** Latents at boundary k + 1 from those at k and the denoiser's prediction of each pass. */
  advance(step: number, latents: Float32Array, predictions: Predictions): Float32Array;
  /** Latents of the end, as far as step k tells; in the layout of `latents`, arguments as above. */
  estimate(step: number, latents: Float32Array, predictions: Predictions): Float32Array;
  cells(latents: Float32Array): LatentCells;
  decodeInputs(latents: Float32Array): NamedTensors;
  /** The decoder's output, [1, 3, height, width] in -1 .. 1, as 8-bit RGB. */
  pixels(decoded: Tensor): Pixels;
}

/** What a request costs before anything is measured: the sizes and the arithmetic of a step. */
export interface RequestCost {
  readonly imageTokens: number;
  readonly textTokens: number;
  /** Rows of a step: 2 with true classifier-free guidance. */
  readonly passes: number;
  /** Operations of one step of one row; a multiply and an add are two. */
  readonly stepOperations: number;
  /** State of one image between two steps. */
  readonly latentBytes: number;
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
  /** Channels of a cell of latents. */
  readonly cellChannels: number;
  /** Inputs of the decoder for cells of any size. */
  decodeCells(cells: LatentCells): NamedTensors;
  /** The request is one that `resolveRequest` accepted for this model's profile. */
  plan(request: ImageRequest): ImagePlan;
  cost(request: ImageRequest): RequestCost;
}
