/**
 * One plan for a pool, whoever asks: `fluxline plan` before anything is bought, and every rank of a
 * group when it starts. Both go through here, so that they cannot come to two answers.
 */
import type { MemoryBound, MemoryDemand } from "@fluxline/kernel/memory-bound.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type { ModelSizes, SizingRequest } from "../core/model-sizes.ts";
import type { Precision } from "../core/precision.ts";
import type { Device, FixedChoices, PlacementProblem, PlacementResult } from "../core/placement.ts";
import { planPreferred } from "../core/placement-plan.ts";
import { modelSizes, planShape } from "./families.ts";
import { isProcessor } from "./precision.ts";

export interface PoolPlanRequest {
  readonly precision: Precision;
  readonly provider: string;
  readonly devices: readonly Device[];
  /** The largest picture that is to be served. */
  readonly width: number;
  readonly height: number;
  /** Rows of the largest step. */
  readonly rows: number;
  readonly linkBytesPerSecond: number;
  readonly order: PlacementProblem["order"];
  readonly fixed?: FixedChoices | undefined;
}

const GIB = 2 ** 30;
const MIB = 2 ** 20;
/** A bare runner process: measured 41 to 59 MiB of anonymous memory, and what calls leave to collect. */
const CPU_RUNTIME_BYTES = 64 * MIB;
/** Context and libraries of a GPU, 0.6 GiB, and workspace of its kernels: an estimate. */
const GPU_RUNTIME_BYTES = Math.ceil(0.85 * GIB);
/** Estimates are good to some percent: what a plan fills to the brim does not run. */
export const RESERVE = 0.03;
/** Of a component that is loaded for each use: an estimate. */
const LOAD_BYTES_PER_SECOND = 1e9;
/** Of 16 processor cores beside a GPU at 60 GFLOP/s each: an estimate. */
const HOST_OPERATIONS_PER_SECOND = 1e12;
/** Powers of two: the runtime's allocator wastes least with them. */
const TILES: readonly number[] = [1024, 512, 256];

export const LINK_GBIT_DEFAULT = 10;
export const LINK_GBIT_MAX = 10_000;
export const GBIT_BYTES = 1e9 / 8;

export interface PoolPlan {
  readonly result: PlacementResult;
  readonly sizes: ModelSizes;
  readonly demand: MemoryDemand;
  readonly steps: number;
  readonly runtimeBytes: number;
  /** One per rank, in order. */
  readonly memory: readonly MemoryBound[];
}

/** @throws AppError INVALID_PLAN; CHECKPOINT_INVALID for a config that is wrong */
export function planPool(checkpoint: Checkpoint, request: PoolPlanRequest): PoolPlan {
  const { precision, provider, devices, width, height, rows } = request;
  const { textTokens, steps } = planShape(checkpoint);
  const pixels = width * height;
  const sizes = sizesOnce(checkpoint, { precision, provider, pixels, textTokens });
  const runtimeBytes = runtimeBytesOf(provider);
  const demand = { pixels, textTokens, rows };
  const result = planPreferred({
    sizes,
    devices,
    order: request.order,
    linkBytesPerSecond: request.linkBytesPerSecond,
    loadBytesPerSecond: LOAD_BYTES_PER_SECOND,
    hostOperationsPerSecond: hostSpeed(provider),
    runtimeBytes,
    reserve: RESERVE,
    steps,
    demand,
    tiles: TILES,
    ...(request.fixed === undefined ? {} : { fixed: request.fixed }),
  });
  const memory = result.placement.stages.map(({ bound }) => bound);
  return { result, sizes, demand, steps, runtimeBytes, memory };
}

/** Building graphs takes longer than planning, and a search for what fits asks again and again. */
const knownSizes = new WeakMap<Checkpoint, Map<string, ModelSizes>>();

function sizesOnce(checkpoint: Checkpoint, request: SizingRequest): ModelSizes {
  const known = knownSizes.get(checkpoint) ?? new Map<string, ModelSizes>();
  knownSizes.set(checkpoint, known);
  const key = JSON.stringify(request);
  const sizes = known.get(key) ?? modelSizes(checkpoint, request);
  known.set(key, sizes);
  return sizes;
}

/**
 * Memory of the runner on the processor beside rank 0, if anything is placed there. Components compute
 * in float32 there, because the CPU provider has no kernels for 16 bits.
 */
export function hostMemory(
  checkpoint: Checkpoint,
  { precision, width, height }: PoolPlanRequest,
  { result, demand }: PoolPlan,
  availableBytes: number,
): MemoryBound[] {
  const { host, decodeTile } = result.placement;
  if (host.components.length === 0) return [];
  const { textTokens } = demand;
  const { components } = modelSizes(checkpoint, {
    precision: precision === "int8" ? "int8" : "float32",
    provider: "cpu",
    pixels: width * height,
    textTokens,
  });
  const there = components.filter(({ name }) => host.components.includes(name));
  const total = (pick: (part: (typeof there)[number]) => number): number => {
    return there.reduce((sum, part) => sum + pick(part), 0);
  };
  return [
    {
      device: "cpu",
      availableBytes,
      fixedBytes:
        CPU_RUNTIME_BYTES + total(({ weightBytes, working }) => weightBytes + working.fixedBytes),
      rowBytesPerPixel: 0,
      rowBytesPerTextToken: 0,
      decodeBytesPerPixel: total(({ use, working }) => (use === "decode" ? working.perPixel : 0)),
      decodePixelsMax: decodeTile ** 2,
      encodeBytesPerTextToken: total(({ working }) => working.perTextToken),
    },
  ];
}

export function runtimeBytesOf(provider: string): number {
  return isProcessor(provider) ? CPU_RUNTIME_BYTES : GPU_RUNTIME_BYTES;
}

/** Where the processor is the device itself, its memory is the device's: nothing is beside it. */
function hostSpeed(provider: string): number | undefined {
  return isProcessor(provider) ? undefined : HOST_OPERATIONS_PER_SECOND;
}
