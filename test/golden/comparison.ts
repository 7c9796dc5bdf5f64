/**
 * How far a result may lie from its golden, and how far it does. Errors are the largest absolute
 * difference over the golden's largest value; README.md says what the tolerances rest on.
 */
import { expect } from "vitest";
import type { Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import type { GoldenTensor } from "./golden-data.ts";

export const NETWORK_TOLERANCE = 1e-5;
export const LATENTS_TOLERANCE = 2e-5;
/** Levels of 255, and the part of all values that may be off by that much. */
export const PIXEL_LEVELS_TOLERANCE = 1;
export const PIXELS_OFF_TOLERANCE = 1 / 2000;
/** A mistake must cost at least this many tolerances to count as caught. */
export const LEAST_MISTAKE = 5;

/** NaN when any value is. */
export function relativeError(actual: ArrayLike<number>, golden: ArrayLike<number>): number {
  let [error, largest] = [0, 0];
  for (let i = 0; i < golden.length; i++) {
    error = Math.max(error, Math.abs(actual[i]! - golden[i]!));
    largest = Math.max(largest, Math.abs(golden[i]!));
  }
  return largest === 0 ? error : error / largest;
}

/** Root of the summed squares of the difference over that of the golden; NaN when any value is. */
export function rmsError(actual: ArrayLike<number>, golden: ArrayLike<number>): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < golden.length; i++) {
    error += (actual[i]! - golden[i]!) ** 2;
    size += golden[i]! ** 2;
  }
  return Math.sqrt(error / size);
}

export function tensorError(actual: Tensor, golden: GoldenTensor): number {
  expect(actual.type).toBe("float32");
  expect(actual.dims).toEqual(golden.dims);
  return relativeError(actual.data as Float32Array, golden.data);
}
