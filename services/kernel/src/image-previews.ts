/**
 * At which steps of an image its previews are made:
 *
 *   preview i of n, i = 1 .. n, shows the image after step round(i * steps / (n + 1))
 *
 * The boundaries are evenly spread, each another one, and the last is before the end: there the
 * picture itself comes. They depend on the request only, so that an image that goes on elsewhere
 * goes on with the previews that remain.
 */
import { assert } from "./assert.ts";

/** Previews of one image. */
export const PREVIEW_COUNT_MAX = 16;
/** Of one preview's file: larger ones are not sent. */
export const PREVIEW_BYTES_MAX = 256 * 1024;

/** As many as were asked for, if there are enough steps with another one after them. */
export function previewsPossible(count: number, steps: number): number {
  return Math.min(count, steps - 1);
}

/** `count` is one that `previewsPossible` gave; the boundaries ascend, from 1 to steps - 1. */
export function previewSteps(count: number, steps: number): readonly number[] {
  assert(count >= 0 && count < steps, `${count} previews of ${steps} steps`);
  return Array.from({ length: count }, (_, i) => Math.round(((i + 1) * steps) / (count + 1)));
}
