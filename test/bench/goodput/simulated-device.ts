/**
 * What work costs on the simulated device. A step of b rows takes
 *
 *   stepMs * b / gain^(log2 b)
 *
 * so a batch twice as large does `gain` times the work per second: at 1.0 batching gains nothing,
 * at 2.0 a batch takes no longer than one row. Above 2.0 a batch would take LESS time than one
 * row; no device does that, and the range is there so that nobody has to believe a profile. Text
 * encoding and decoding are one request at a time and gain nothing, for every policy.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Task } from "@fluxline/gpu-node/core/step-batcher.ts";

export interface SizeCost {
  /** One step of one row. */
  readonly stepMs: number;
  readonly decodeMs: number;
}

export interface DeviceCosts {
  readonly gain: number;
  readonly encodeMs: number;
  readonly sizes: Readonly<Record<string, SizeCost>>;
}

export function stepMs(costs: DeviceCosts, size: string, rows: number): number {
  return (sizeCost(costs, size).stepMs * rows) / costs.gain ** Math.log2(rows);
}

/** A whole request with the device to itself. */
export function aloneMs(costs: DeviceCosts, size: string, steps: number): number {
  const { stepMs: oneStepMs, decodeMs } = sizeCost(costs, size);
  return costs.encodeMs + steps * oneStepMs + decodeMs;
}

export function taskMs(costs: DeviceCosts, task: Task, sizeOf: (id: string) => string): number {
  if (task.kind === "encode") return costs.encodeMs;
  assert(task.kind !== "probe", "nobody asks for previews here");
  if (task.kind === "decode") return sizeCost(costs, sizeOf(task.id)).decodeMs;
  return stepMs(costs, task.shapeKey, task.rows.length);
}

function sizeCost({ sizes }: DeviceCosts, size: string): SizeCost {
  const cost = sizes[size];
  if (cost === undefined) throw new Error(`no cost for size ${size}`);
  return cost;
}
