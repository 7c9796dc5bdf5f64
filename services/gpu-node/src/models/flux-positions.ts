/**
 * What FLUX computes from numbers, not from pixels or text: sinusoids of the timestep and the
 * guidance, and the rotation tables of the token positions. They are made on the host, once per
 * step or shape, because Sin and Cos of graph runtimes differ between batch sizes.
 *
 * Formulas: get_timestep_embedding (cosine first) and FluxPosEmbed of diffusers, rounding where
 * they round.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { float32Tensor, type Tensor } from "../core/tensor.ts";
import { FLOAT16_MAX, roundTo } from "../onnx/float-bits.ts";
import type { RunType } from "../onnx/graph.ts";

/** Width of both sinusoids; a constant of the architecture. */
export const SINUSOID_WIDTH = 256;
const SINUSOID_PERIOD = 10_000;
const ROPE_THETA = 10_000;

const { fround } = Math;

/**
 * Sinusoid of the scheduler's timestep (sigma * 1000): [256], cosines, then sines. The pipeline
 * divides it by 1000 and the network multiplies it again, each time rounding to the run type.
 */
export function timestepEmbedding(timestep: number, runType: RunType): Float32Array {
  const given = roundTo(runType, timestep);
  return sinusoid(scaled(runType, roundTo(runType, given / 1000)), runType);
}

/** Sinusoid of the guidance scale: [256], cosines, then sines. */
export function guidanceEmbedding(guidance: number, runType: RunType): Float32Array {
  return sinusoid(scaled(runType, roundTo(runType, guidance)), runType);
}

/** Times 1000; a guidance above 65.5 would be infinite in float16, and the picture black. */
function scaled(runType: RunType, value: number): number {
  const product = roundTo(runType, value * 1000);
  return runType === "float16" ? Math.min(product, FLOAT16_MAX) : product;
}

/**
 * Frequencies of the sinusoid, exp(-ln(period) * i / half) in float32. Torch's vectorised float32
 * exp is not correctly rounded: at these two places it lies one unit in the last place above, which
 * guidance 30 turns into an angle that is off by 0.001.
 */
const FREQUENCIES_ONE_UNIT_UP: readonly number[] = [12, 106];

function sinusoidFrequencies(): Float32Array {
  const half = SINUSOID_WIDTH / 2;
  const factor = fround(-Math.log(SINUSOID_PERIOD));
  const result = Float32Array.from({ length: half }, (_, index) =>
    Math.exp(fround(fround(factor * index) / half)),
  );
  const bits = new Uint32Array(result.buffer);
  for (const index of FREQUENCIES_ONE_UNIT_UP) bits[index] = (bits[index] ?? 0) + 1;
  return result;
}

const FREQUENCIES = sinusoidFrequencies();

function sinusoid(value: number, runType: RunType): Float32Array {
  const half = SINUSOID_WIDTH / 2;
  const result = new Float32Array(SINUSOID_WIDTH);
  for (const [index, frequency] of FREQUENCIES.entries()) {
    const angle = fround(value * frequency);
    result[index] = roundTo(runType, Math.cos(angle));
    result[half + index] = roundTo(runType, Math.sin(angle));
  }
  return result;
}

/** A token's place on each axis: for FLUX.1 (picture, row, column). */
export type Position = readonly number[];

/** Positions of packed latents, row by row; `first` tells pictures of one sequence apart. */
export function imagePositions(rows: number, columns: number, first = 0): Position[] {
  return Array.from({ length: rows * columns }, (_, index) => [
    first,
    Math.floor(index / columns),
    index % columns,
  ]);
}

/** Text has no place in the picture: zeros. */
export function textPositions(tokens: number): Position[] {
  return Array.from({ length: tokens }, () => [0, 0, 0]);
}

/**
 * Cosines and sines of the angles by which pairs of a head's channels are rotated, each [S, half
 * the head dimension]; text positions first, then image positions.
 */
export function ropeTables(
  axesDims: readonly number[],
  positions: readonly Position[],
): { readonly cos: Tensor; readonly sin: Tensor } {
  const half = axesDims.reduce((sum, dim) => sum + dim, 0) / 2;
  const cos = new Float32Array(positions.length * half);
  const sin = new Float32Array(positions.length * half);
  const frequencies = axesDims.map((dim) =>
    Array.from({ length: dim / 2 }, (_, pair) => 1 / ROPE_THETA ** ((2 * pair) / dim)),
  );
  let at = 0;
  for (const position of positions) {
    assert(position.length === axesDims.length, `position [${position.join(", ")}]`);
    for (const [axis, place] of position.entries()) {
      for (const frequency of frequencies[axis] ?? []) {
        cos[at] = Math.cos(place * frequency);
        sin[at] = Math.sin(place * frequency);
        at += 1;
      }
    }
  }
  const dims = [positions.length, half];
  return { cos: float32Tensor(cos, dims), sin: float32Tensor(sin, dims) };
}
