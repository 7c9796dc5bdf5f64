/** The words of a stage planner: what it is asked and what it answers (core/placement-plan.ts). */
import type { MemoryBound, MemoryDemand } from "@fluxline/kernel/memory-bound.ts";
import type { ModelSizes } from "./model-sizes.ts";
import type { BlockRange, Place } from "./stage-plan.ts";

export interface Device {
  /** Devices of equal kind have equal memory and speed. */
  readonly kind: string;
  readonly memoryBytes: number;
  readonly operationsPerSecond: number;
}

/** What is settled beforehand; the rest is the planner's. */
export interface FixedChoices {
  readonly cuts?: readonly number[] | undefined;
  readonly places?: ReadonlyMap<string, Place> | undefined;
  readonly sequential?: ReadonlySet<string> | undefined;
  readonly decodeTile?: number | undefined;
}

export interface PlacementProblem {
  readonly sizes: ModelSizes;
  /** Each takes at least one block. */
  readonly devices: readonly Device[];
  /** Whether device i must be rank i, or the order of ranks is the planner's as well. */
  readonly order: "given" | "any";
  readonly linkBytesPerSecond: number;
  /** Bytes that a component is loaded at, where it is loaded for each use. */
  readonly loadBytesPerSecond: number;
  /** Of the processor beside rank 0; undefined: nothing may be placed on it unless it is fixed. */
  readonly hostOperationsPerSecond: number | undefined;
  /** What may be placed on it; undefined: everything. */
  readonly hostMay?: readonly string[];
  /** Of a device before anything is loaded. */
  readonly runtimeBytes: number;
  /** Share of a device's memory that a plan leaves free. */
  readonly reserve: number;
  readonly steps: number;
  readonly demand: MemoryDemand;
  /** Pixels along a side of the tiles that may be decoded; whole pictures always may. */
  readonly tiles: readonly number[];
  readonly fixed?: FixedChoices;
}

export type Mode = "resident" | "sequential";

export interface PlacedComponent {
  readonly name: string;
  readonly mode: Mode;
  readonly weightBytes: number;
  readonly workingBytes: number;
}

export interface PlacedStage {
  readonly device: Device;
  readonly blocks: BlockRange;
  readonly components: readonly PlacedComponent[];
  /** Of a step, the share of its components included. */
  readonly seconds: number;
  readonly weightBytes: number;
  /** Of a step with all rows. */
  readonly workingBytes: number;
  readonly needBytes: number;
  readonly bound: MemoryBound;
}

export interface Placement {
  readonly stages: readonly PlacedStage[];
  /** Beside rank 0. */
  readonly host: { readonly components: readonly string[]; readonly seconds: number };
  /** Seconds of the links between neighbours, one fewer than stages. */
  readonly linkSeconds: readonly number[];
  /** 0: pictures are decoded whole. */
  readonly decodeTile: number;
  readonly bottleneck: { readonly resource: string; readonly seconds: number };
  /** The second criterion: seconds squared, summed over all resources. */
  readonly squares: number;
}

export type PlacementResult =
  | { readonly fits: true; readonly placement: Placement }
  /** `placement`: the one whose largest shortfall is the smallest. */
  | { readonly fits: false; readonly placement: Placement; readonly shortfallBytes: number };

/** A tile overlaps its neighbours by a quarter, so each pixel is decoded (4/3)^2 times. */
export const TILE_WORK = (4 / 3) ** 2;
/**
 * Of one row of a step: the most that any of the blocks needs, for they follow one another, and what
 * comes in and goes out, which stays beside that as a frame of the link.
 */
export function stageSlopes(
  { blocks, cuts }: ModelSizes,
  first: number,
  end: number,
): { perPixel: number; perTextToken: number } {
  const edges = [cuts[first]!, cuts[end]!];
  let perPixel = 0;
  let perTextToken = 0;
  for (let block = first; block < end; block++) {
    const { working } = blocks[block]!;
    perPixel = Math.max(perPixel, working.perPixel);
    perTextToken = Math.max(perTextToken, working.perTextToken);
  }
  for (const edge of edges) {
    perPixel += edge.perPixel;
    perTextToken += edge.perTextToken;
  }
  return { perPixel, perTextToken };
}
