/**
 * What would make a plan fit that does not: the smallest change of each kind, in the order in which
 * people give something up. Every one of them is a plan of its own that was made and fits.
 */
import type { Checkpoint } from "../core/checkpoint.ts";
import type { Precision } from "../core/precision.ts";
import type { Device } from "../core/placement.ts";
import { type PoolPlanRequest, planPool, RESERVE } from "./pool-plan.ts";

/** Only what differs from the request; `memoryBytes` is that of each device, in order. */
export interface PlanChange {
  readonly rows?: number;
  readonly width?: number;
  readonly height?: number;
  readonly precision?: Precision;
  readonly moreDevices?: { readonly kind: string; readonly count: number };
  readonly moreMemoryBytes?: number;
}

const GIB = 2 ** 30;
/** Memory is asked for in steps of this. */
const MEMORY_STEP_BYTES = GIB / 10;
const SIZE_MULTIPLE = 16;
const SCALES = [7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4];
const MORE_DEVICES_MAX = 8;

export function smallestChanges(
  checkpoint: Checkpoint,
  request: PoolPlanRequest,
  shortfallBytes: number,
): PlanChange[] {
  const fits = (change: PlanChange): boolean => {
    return planPool(checkpoint, changed(request, change)).result.fits;
  };
  const [rows, sizes, types] = [fewerRows(request), smallerSizes(request), smallerTypes(request)];
  const alone = [rows, sizes, types].flatMap((kind) => kind.find(fits) ?? []);
  const together = alone.length > 0 ? [] : combined(rows.slice(-1), sizes, types, fits);
  const blocks = planPool(checkpoint, request).sizes.blocks.length;
  const room = Math.min(MORE_DEVICES_MAX, blocks - request.devices.length);
  const counts = Array.from({ length: room }, (_, index) => index + 1);
  const kinds = [...new Set(request.devices.map(({ kind }) => kind))];
  const devices = kinds.flatMap((kind) => {
    return counts.map((count) => ({ moreDevices: { kind, count } })).find(fits) ?? [];
  });
  const steps = Math.ceil(shortfallBytes / (1 - RESERVE) / MEMORY_STEP_BYTES);
  const memory = [{ moreMemoryBytes: steps * MEMORY_STEP_BYTES }].filter(fits);
  return [...alone, ...together, ...devices, ...memory];
}

/** The request with the change made. */
export function changed(request: PoolPlanRequest, change: PlanChange): PoolPlanRequest {
  const { moreDevices, moreMemoryBytes = 0, ...rest } = change;
  const more = request.devices.find(({ kind }) => kind === moreDevices?.kind);
  const added: Device[] = Array.from({ length: moreDevices?.count ?? 0 }, () => more!);
  const devices = [...request.devices, ...added].map((device) => ({
    ...device,
    memoryBytes: device.memoryBytes + moreMemoryBytes,
  }));
  return { ...request, ...rest, devices };
}

function fewerRows({ rows }: PoolPlanRequest): PlanChange[] {
  return Array.from({ length: rows - 1 }, (_, less) => ({ rows: rows - 1 - less }));
}

function smallerSizes({ width, height }: PoolPlanRequest): PlanChange[] {
  const scaled = (side: number, scale: number): number => {
    return Math.max(1, Math.floor((side * scale) / SIZE_MULTIPLE)) * SIZE_MULTIPLE;
  };
  return SCALES.map((scale) => ({ width: scaled(width, scale), height: scaled(height, scale) }));
}

/** The processor does not compute in bfloat16, and computes float16 in float32. */
function smallerTypes({ precision, provider }: PoolPlanRequest): PlanChange[] {
  if (precision === "int8") return [];
  const half: PlanChange[] =
    precision === "float32" && provider !== "cpu" ? [{ precision: "bfloat16" }] : [];
  return [...half, { precision: "int8" }];
}

/** The least of two or three kinds together; sizes are given up last. */
function combined(
  rows: readonly PlanChange[],
  sizes: readonly PlanChange[],
  types: readonly PlanChange[],
  fits: (change: PlanChange) => boolean,
): PlanChange[] {
  const none: PlanChange[] = [{}];
  const all = [...none, ...sizes].flatMap((size) =>
    [...none, ...rows].flatMap((row) =>
      [...none, ...types].map((type) => ({ ...size, ...row, ...type })),
    ),
  );
  return [all.find((change) => Object.keys(change).length > 1 && fits(change)) ?? []].flat();
}
