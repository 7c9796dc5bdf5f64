import { createHash } from "node:crypto";
import { Random } from "@fluxline/kernel/random.ts";
import { describe, expect, test } from "vitest";
import {
  QUANTISATION_BLOCK,
  quantisationBlocks,
  quantisedBytes,
  quantiseRows,
  ZERO_CODE,
} from "./quantisation.ts";

function quantised(values: readonly number[], inputs: number) {
  const cells = (values.length / inputs) * quantisationBlocks(inputs);
  const codes = new Uint8Array(cells * QUANTISATION_BLOCK);
  const scales = new Float32Array(cells);
  const wrong = quantiseRows(Float32Array.from(values), inputs, codes, scales);
  return { codes, scales, wrong };
}

/** A row of one block, filled up with zeros. */
const block = (...values: number[]): number[] => {
  return Array.from({ length: QUANTISATION_BLOCK }, (_, at) => values[at] ?? 0);
};

describe("a block of weights", () => {
  test.each([
    ["the largest value has the last code", block(127), 1, [255]],
    ["the largest negative one has code 1, never 0", block(-127, 127), 1, [1, 255]],
    ["what lies between is rounded to the nearest code", block(127, 3.4, -3.4), 1, [255, 131, 125]],
    ["a half is rounded up", block(127, 2.5, -2.5), 1, [255, 131, 126]],
    ["zeros have the code of zero and no scale", block(), 0, [ZERO_CODE, ZERO_CODE]],
    ["values too small for a scale are zeros", block(1e-40), 0, [ZERO_CODE]],
    ["the smallest scale there is still has all codes", block(127 * 2 ** -126), 2 ** -126, [255]],
    ["the largest float32", block(3.4e38), Math.fround(Math.fround(3.4e38) / 127), [255]],
  ])("%s", (_, values, scale, codes) => {
    const { scales, codes: found, wrong } = quantised(values, values.length);
    expect(wrong).toBe(-1);
    expect([...scales]).toEqual([scale]);
    expect([...found.subarray(0, codes.length)]).toEqual(codes);
    expect([...found.subarray(codes.length)].every((code) => code === ZERO_CODE)).toBe(true);
  });

  test.each([NaN, Infinity, -Infinity])("with %s is refused by its place", (value) => {
    const values = [...block(1), ...block(1, value)];
    expect(quantised(values, QUANTISATION_BLOCK).wrong).toBe(QUANTISATION_BLOCK);
  });
});

test("a row that ends inside a block is filled up, and the next row begins a block", () => {
  const { codes, scales } = quantised([...block(127), 2, 1, ...block(127), 0, 4], 130);
  expect([...scales]).toEqual([1, 2 / 127, 1, 4 / 127].map(Math.fround));
  const [first, second] = [codes.subarray(128, 256), codes.subarray(384)];
  expect([...first.subarray(0, 3)]).toEqual([255, 192, ZERO_CODE]);
  expect([...second.subarray(0, 3)]).toEqual([ZERO_CODE, 255, ZERO_CODE]);
});

test("no weight is off by more than half a scale", () => {
  const random = new Random(11);
  const inputs = 300;
  const values = Array.from({ length: 7 * inputs }, () => (random.float() - 0.5) ** 3);
  const { codes, scales } = quantised(values, inputs);
  const blocks = quantisationBlocks(inputs);
  for (const [index, value] of values.entries()) {
    const [row, column] = [Math.floor(index / inputs), index % inputs];
    const cell = row * blocks + Math.floor(column / QUANTISATION_BLOCK);
    const code = codes[cell * QUANTISATION_BLOCK + (column % QUANTISATION_BLOCK)]!;
    const error = Math.abs((code - ZERO_CODE) * scales[cell]! - value);
    expect(error).toBeLessThanOrEqual(scales[cell]! * 0.500001);
  }
});

/** Of these codes pictures are made: when it fails, see the head of quantisation.ts. */
test("the same weights have the same codes for ever", () => {
  const random = new Random(5);
  const values = Array.from({ length: 40 * 200 }, () => random.float() - random.float());
  const { codes, scales } = quantised(values, 200);
  const hash = createHash("sha256").update(codes).update(new Uint8Array(scales.buffer));
  expect(hash.digest("hex").slice(0, 16)).toBe("70ca8b791b8d73e2");
});

test.each([
  [3072, 3072, 3072 * 3072 * (1 + 4 / 128)],
  [10, 1, 10 * (128 + 4)],
  [4, 129, 4 * 2 * (128 + 4)],
])("%i outputs of %i inputs are %i bytes", (outputs, inputs, bytes) => {
  expect(quantisedBytes(outputs, inputs)).toBe(bytes);
});
