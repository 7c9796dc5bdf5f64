/** How far two pictures of one size are apart, overall and where tiles meet. */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Pixels } from "@fluxline/gpu-node/core/image-model.ts";

/** In decibels over values of 0 to 255; Infinity for equal ones. */
export function psnr(a: Pixels, b: Pixels): number {
  assert(a.rgb.length === b.rgb.length, "pictures of two sizes");
  const sum = a.rgb.reduce((total, value, i) => total + (value - b.rgb[i]!) ** 2, 0);
  return 10 * Math.log10(255 ** 2 / (sum / a.rgb.length));
}

/** Pixels along an axis at which more than one tile counts: [first, end) of each. */
export type Bands = readonly { readonly first: number; readonly end: number }[];

export interface SeamDifference {
  readonly largest: number;
  readonly mean: number;
}

/** Differences inside the bands and outside of them, in steps of 8 bits. */
export function seamDifference(
  a: Pixels,
  b: Pixels,
  bands: { readonly rows: Bands; readonly columns: Bands },
): { readonly seams: SeamDifference; readonly elsewhere: SeamDifference } {
  const isIn = (at: number, some: Bands): boolean =>
    some.some(({ first, end }) => at >= first && at < end);
  const seams = { largest: 0, sum: 0, count: 0 };
  const elsewhere = { largest: 0, sum: 0, count: 0 };
  for (let i = 0; i < a.rgb.length; i++) {
    const pixel = Math.floor(i / 3);
    const isSeam =
      isIn(pixel % a.width, bands.columns) || isIn(Math.floor(pixel / a.width), bands.rows);
    const difference = Math.abs(a.rgb[i]! - b.rgb[i]!);
    const counted = isSeam ? seams : elsewhere;
    counted.largest = Math.max(counted.largest, difference);
    counted.sum += difference;
    counted.count += 1;
  }
  const found = ({ largest, sum, count }: typeof seams) => ({ largest, mean: sum / count });
  return { seams: found(seams), elsewhere: found(elsewhere) };
}

/**
 * How much sharper the picture changes from one pixel to the next at a line than two pixels beside
 * it, on average, in steps of 8 bits: a seam that can be seen is an edge that nothing has drawn.
 */
export function edgeAt(picture: Pixels, column: number): number {
  const { width, height, rgb } = picture;
  const jump = (x: number): number => {
    let sum = 0;
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < 3; c++) {
        const at = (y * width + x) * 3 + c;
        sum += Math.abs(rgb[at]! - rgb[at - 3]!);
      }
    }
    return sum / (3 * height);
  };
  return jump(column) - (jump(column - 2) + jump(column + 2)) / 2;
}
