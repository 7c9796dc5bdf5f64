/**
 * What a stage planner must know of a model: bytes and operations, block by block and component by
 * component. A family gives it from the geometry; a planner never learns which family it is.
 *
 * Memory is linear in what a request asks for, per row of a step: bytes for each pixel of the
 * picture and for each token of the text. That is the form of `MemoryBound` (kernel), in which the
 * scheduler reckons too.
 */
import type { Precision } from "./precision.ts";
import type { ComponentLayout } from "./stage-plan.ts";

/** For each pixel of the picture, and for each token of the text. */
export interface Slopes {
  readonly perPixel: number;
  readonly perTextToken: number;
}

/** What comes before the first block counts with it, and what comes after the last with that. */
export interface BlockSize {
  readonly weightBytes: number;
  /** Of one row of one step, at the shape that was planned for. */
  readonly operations: number;
  /** Bytes of one row that live at the block's worst point, as the runtime's allocator keeps them. */
  readonly working: Slopes;
}

export interface ComponentSize {
  readonly name: string;
  readonly use: ComponentLayout["use"];
  readonly weightBytes: number;
  /** Of one use, at the shape that was planned for. */
  readonly operations: number;
  /** Working memory of a use: of a text by its tokens, of a picture by its pixels. */
  readonly working: Slopes & { readonly fixedBytes: number };
}

export interface ModelSizes {
  readonly blocks: readonly BlockSize[];
  readonly components: readonly ComponentSize[];
  /** Bytes of one row that pass from block i - 1 to block i, for each i; at 0 and the end: none. */
  readonly cuts: readonly Slopes[];
}

/** What a family sizes its networks for. */
export interface SizingRequest {
  readonly precision: Precision;
  /** `cpu`, where memory was measured; every other provider is an estimate. */
  readonly provider: string;
  readonly pixels: number;
  readonly textTokens: number;
}

/** The longest text that requests may have, and the steps of a usual one. */
export interface PlanShape {
  readonly textTokens: number;
  readonly steps: number;
}
