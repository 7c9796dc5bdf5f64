/**
 * Weight-only int8: how a linear layer's weight [outputs, inputs] becomes bytes and scales. Each row
 * is cut into blocks of 128 inputs, and each block has one scale, its largest absolute value over
 * 127, so that
 *
 *   weight = (code - 128) * scale        code 1 .. 255, as onnxruntime's MatMulNBits reads them
 *
 * A row whose length is no multiple of 128 ends in a block filled up with the code of zero. Why
 * blocks of 128: docs/decisions/0005-int8-weights.md.
 *
 * Who changes a code that comes out of this changes pictures: then raise GRAPH_VERSION
 * (numerics-class.ts) and the scheme, which names the files that hold the codes.
 */
import { assert } from "@fluxline/kernel/assert.ts";

/** Inputs that share one scale. */
export const QUANTISATION_BLOCK = 128;
/** The code of zero. */
export const ZERO_CODE = 128;
/** Names how the codes are made, in the files that hold them. */
export const QUANTISATION_SCHEME = "int8-block128-1";

const LARGEST = 127;
/** Below this a float32 has too few bits to be a scale: such a block is as good as zero. */
const SCALE_MIN = 2 ** -126;

/** Of a float32, all but its sign: in the order of the sizes, infinity and NaN last. */
const SIZE_BITS = 0x7fffffff;
const INFINITE_BITS = 0x7f800000;

const scratchFloat = new Float32Array(1);
const scratchBits = new Int32Array(scratchFloat.buffer);

export function quantisationBlocks(inputs: number): number {
  return Math.ceil(inputs / QUANTISATION_BLOCK);
}

/** Bytes of the codes of a linear layer's weight. */
export function codeBytes(outputs: number, inputs: number): number {
  return outputs * quantisationBlocks(inputs) * QUANTISATION_BLOCK;
}

/** Bytes of its scales. */
export function scaleBytes(outputs: number, inputs: number): number {
  return outputs * quantisationBlocks(inputs) * Float32Array.BYTES_PER_ELEMENT;
}

/** Bytes of a linear layer's weight once it is quantised, without its bias. */
export function quantisedBytes(outputs: number, inputs: number): number {
  return codeBytes(outputs, inputs) + scaleBytes(outputs, inputs);
}

/**
 * Quantises whole rows.
 *
 * @param values [rows, inputs]
 * @param codes gets [rows, blocks, 128]
 * @param scales gets [rows, blocks]
 * @returns the index in `values` of the first block with a value that is not finite; -1: none
 */
export function quantiseRows(
  values: Float32Array,
  inputs: number,
  codes: Uint8Array,
  scales: Float32Array,
): number {
  const rows = values.length / inputs;
  const blocks = quantisationBlocks(inputs);
  assert(Number.isInteger(rows), `${values.length} values are no whole rows of ${inputs}`);
  assert(codes.length === rows * blocks * QUANTISATION_BLOCK, `${codes.length} codes`);
  assert(scales.length === rows * blocks, `${scales.length} scales`);
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  for (let row = 0, index = 0; row < rows; row++) {
    const rowEnd = (row + 1) * inputs;
    for (let block = 0; block < blocks; block++, index++) {
      const start = row * inputs + block * QUANTISATION_BLOCK;
      const end = Math.min(start + QUANTISATION_BLOCK, rowEnd);
      const exact = Math.fround(largest(bits, start, end) / LARGEST);
      if (!(exact < Infinity)) return start;
      const scale = exact < SCALE_MIN ? 0 : exact;
      scales[index] = scale;
      quantiseBlock(values, start, end, scale, codes, index * QUANTISATION_BLOCK);
    }
  }
  return -1;
}

/** The largest size of a value, infinite if one is no number. */
function largest(bits: Int32Array, start: number, end: number): number {
  let most = 0;
  for (let i = start; i < end; i++) {
    const size = bits[i]! & SIZE_BITS;
    if (size > most) most = size;
  }
  if (most >= INFINITE_BITS) return Infinity;
  scratchBits[0] = most;
  return scratchFloat[0]!;
}

/** Halves are rounded up: the largest code is 255, and 0 does not occur. */
function quantiseBlock(
  values: Float32Array,
  start: number,
  end: number,
  scale: number,
  codes: Uint8Array,
  at: number,
): void {
  const factor = scale === 0 ? 0 : 1 / scale;
  let to = at;
  for (let i = start; i < end; i++, to++) codes[to] = values[i]! * factor + (ZERO_CODE + 0.5);
  codes.fill(ZERO_CODE, to, at + QUANTISATION_BLOCK);
}
