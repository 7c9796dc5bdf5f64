/**
 * What an image looks like before it is decoded: a linear map from the latents of one cell to the
 * mean colour of the pixels that the decoder makes of it, learnt by least squares.
 *
 *   colour = W * latents + b, W [3, channels]
 *
 * The first map comes from one decode of random latents (`probeCells`), which shows every channel
 * but not how channels go together in pictures. Each picture that is decoded anyway then moves it:
 * least squares over those pictures, held to the first map like by `FIRST_MAP_WEIGHT` pictures.
 *
 * Measured on flux-tiny against the shrunken final pictures of 12 prompts: the probe alone 20 dB,
 * with 3 pictures 26, with 6 pictures 30; the best linear map there is gets 31, grey 9. A map from
 * synthetic pictures sent through the encoder got 22, and would need the encoder on the device.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { LatentCells, Pixels } from "./image-model.ts";
import { TorchGenerator } from "./noise.ts";

/** Pixels of a preview; larger ones are shrunk by a whole factor. */
export const PREVIEW_PIXELS_MAX = 256 * 256;

const COLOURS = 3;
const PROBE_SIDE = 32;
/** Neighbouring cells of real latents are alike. */
const PROBE_BLOCK = 4;
/** Standard deviation, where real latents have about 1: measured best among 0.15 to 3. */
const PROBE_DEVIATION = 1.5;
const PROBE_SEED = 1n;
const FIRST_MAP_WEIGHT = 0.1;
/** Keeps equations solvable that samples alone do not decide. */
const RIDGE = 1e-4;
/** After so many the map is as good as a linear one gets, and stays as it is. */
const PICTURES_LEARNT_MAX = 256;
const CELLS_PER_PICTURE_MAX = 1024;

/** Random latents for the decoder to show what its channels mean. */
export function probeCells(channels: number): LatentCells {
  const blocks = PROBE_SIDE / PROBE_BLOCK;
  const noise = new TorchGenerator(PROBE_SEED).normal(channels * blocks * blocks);
  const values = new Float32Array(channels * PROBE_SIDE * PROBE_SIDE);
  for (let at = 0; at < values.length; at++) {
    const x = Math.floor((at % PROBE_SIDE) / PROBE_BLOCK);
    const row = Math.floor(at / PROBE_SIDE); // over all channels
    values[at] = PROBE_DEVIATION * noise[Math.floor(row / PROBE_BLOCK) * blocks + x]!;
  }
  return { channels, height: PROBE_SIDE, width: PROBE_SIDE, values };
}

/** The map of one model. Sizes: C channels, N = C + 1 coefficients per colour, the last is b. */
export class LatentPreview {
  readonly #channels: number;
  /** Sums over pictures of the mean over cells; `#products` [N, N], `#answers` [N, 3]. */
  readonly #products: Float64Array;
  readonly #answers: Float64Array;
  #pictures = 0;
  /** [N, 3], and how much weight keeps each coefficient near it; undefined before the probe. */
  #first: { readonly map: Float64Array; readonly holds: Float64Array } | undefined;
  /** [N, 3]; undefined when something was learnt since. */
  #map: Float64Array | undefined;

  constructor(channels: number) {
    this.#channels = channels;
    this.#products = new Float64Array((channels + 1) ** 2);
    this.#answers = new Float64Array((channels + 1) * COLOURS);
  }

  /** Whether `learn` would still change anything. */
  get learning(): boolean {
    return this.#pictures < PICTURES_LEARNT_MAX;
  }

  /** Makes the first map; `pixels` are what the decoder made of the probe. */
  begin(probe: LatentCells, pixels: Pixels): void {
    const rank = this.#channels + 1;
    const products = new Float64Array(rank * rank);
    const answers = new Float64Array(rank * COLOURS);
    accumulate(probe, pixels, products, answers);
    let power = 0;
    for (let i = 0; i < this.#channels; i++) power += products[i * rank + i]! / this.#channels;
    const scale = new Float64Array(rank).fill(Math.max(power, RIDGE));
    scale[rank - 1] = 1;
    const grey = new Float64Array(rank * COLOURS).fill(0.5, this.#channels * COLOURS);
    const ridge = scale.map((value) => value * RIDGE);
    const map = heldLeastSquares(products, answers, grey, ridge);
    this.#first = { map, holds: scale.map((value) => value * FIRST_MAP_WEIGHT) };
    this.#map = undefined;
  }

  /** Takes in a picture that was decoded; before `begin` too. */
  learn(cells: LatentCells, pixels: Pixels): void {
    if (!this.learning) return;
    this.#pictures += 1;
    accumulate(cells, pixels, this.#products, this.#answers);
    this.#map = undefined;
  }

  /** One pixel for each cell, or for each square of cells where that would be too many. */
  draw(cells: LatentCells): Pixels {
    assert(cells.channels === this.#channels, `${cells.channels} channels of ${this.#channels}`);
    assert(this.#first !== undefined, "a preview before the probe");
    const { map, holds } = this.#first;
    this.#map ??= heldLeastSquares(this.#products, this.#answers, map, holds);
    return paint(this.#map, cells);
  }
}

/** Adds the means over (at most `CELLS_PER_PICTURE_MAX`) cells of a * a' and a * colour'. */
function accumulate(
  cells: LatentCells,
  pixels: Pixels,
  products: Float64Array,
  answers: Float64Array,
): void {
  const { channels, height, width, values } = cells;
  const rank = channels + 1;
  const area = height * width;
  const stride = Math.ceil(Math.sqrt(area / CELLS_PER_PICTURE_MAX));
  const sample = new Float64Array(rank).fill(1);
  const weight = 1 / (Math.ceil(height / stride) * Math.ceil(width / stride));
  for (let y = 0; y < height; y += stride) {
    for (let x = 0; x < width; x += stride) {
      for (let c = 0; c < channels; c++) sample[c] = values[c * area + y * width + x]!;
      const colour = meanColour(pixels, x, y, pixels.width / width);
      for (let i = 0; i < rank; i++) {
        const weighted = weight * sample[i]!;
        for (let j = 0; j < rank; j++) products[i * rank + j]! += weighted * sample[j]!;
        for (let c = 0; c < COLOURS; c++) answers[i * COLOURS + c]! += weighted * colour[c]!;
      }
    }
  }
}

/** Mean over the `side` x `side` pixels of a cell, each colour 0 .. 1. */
function meanColour({ width, rgb }: Pixels, x: number, y: number, side: number): number[] {
  const sum = [0, 0, 0];
  for (let row = y * side; row < (y + 1) * side; row++) {
    const start = (row * width + x * side) * COLOURS;
    for (let at = start; at < start + side * COLOURS; at += COLOURS) {
      for (let c = 0; c < COLOURS; c++) sum[c]! += rgb[at + c]!;
    }
  }
  return sum.map((value) => value / (side * side * 255));
}

/**
 * The map M that minimises the squared error over the samples plus holds * (M - held)^2:
 * (products + diag(holds)) (M - held) = answers - products * held.
 */
function heldLeastSquares(
  products: Float64Array,
  answers: Float64Array,
  held: Float64Array,
  holds: Float64Array,
): Float64Array {
  const rank = holds.length;
  const left = products.slice();
  const right = answers.slice();
  for (let i = 0; i < rank; i++) {
    left[i * rank + i]! += holds[i]!;
    for (let j = 0; j < rank; j++) {
      const product = products[i * rank + j]!;
      for (let c = 0; c < COLOURS; c++) {
        right[i * COLOURS + c]! -= product * held[j * COLOURS + c]!;
      }
    }
  }
  solvePositive(left, right, rank);
  return right.map((value, i) => value + held[i]!);
}

/** Solves a symmetric positive definite system in place, by its Cholesky factor. */
function solvePositive(matrix: Float64Array, right: Float64Array, rank: number): void {
  for (let j = 0; j < rank; j++) {
    for (let i = j; i < rank; i++) {
      let value = matrix[i * rank + j]!;
      for (let k = 0; k < j; k++) value -= matrix[i * rank + k]! * matrix[j * rank + k]!;
      matrix[i * rank + j] = i === j ? Math.sqrt(value) : value / matrix[j * rank + j]!;
    }
  }
  for (let c = 0; c < COLOURS; c++) {
    for (let i = 0; i < rank; i++) {
      let value = right[i * COLOURS + c]!;
      for (let k = 0; k < i; k++) value -= matrix[i * rank + k]! * right[k * COLOURS + c]!;
      right[i * COLOURS + c] = value / matrix[i * rank + i]!;
    }
    for (let i = rank - 1; i >= 0; i--) {
      let value = right[i * COLOURS + c]!;
      for (let k = i + 1; k < rank; k++) value -= matrix[k * rank + i]! * right[k * COLOURS + c]!;
      right[i * COLOURS + c] = value / matrix[i * rank + i]!;
    }
  }
}

function paint(map: Float64Array, { channels, height, width, values }: LatentCells): Pixels {
  const factor = Math.ceil(Math.sqrt((height * width) / PREVIEW_PIXELS_MAX));
  const [rows, columns] = [Math.floor(height / factor), Math.floor(width / factor)];
  const area = rows * columns;
  const rgb = new Uint8Array(area * COLOURS);
  const share = 255 / (factor * factor);
  for (let colour = 0; colour < COLOURS; colour++) {
    const sums = new Float32Array(area).fill(map[channels * COLOURS + colour]! * 255 + 0.5);
    for (let c = 0; c < channels; c++) {
      const weight = map[c * COLOURS + colour]! * share;
      for (let y = 0; y < rows * factor; y++) {
        const from = (c * height + y) * width;
        const to = Math.floor(y / factor) * columns;
        for (let x = 0; x < columns; x++) {
          let value = 0;
          for (let i = 0; i < factor; i++) value += values[from + x * factor + i]!;
          sums[to + x]! += weight * value;
        }
      }
    }
    // Cut off, not rounded: a half was added above.
    for (let i = 0; i < area; i++) {
      rgb[i * COLOURS + colour] = Math.min(255, Math.max(0, sums[i]!));
    }
  }
  return { width: columns, height: rows, rgb };
}
