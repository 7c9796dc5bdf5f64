import { describe, expect, test } from "vitest";
import {
  guidanceEmbedding,
  imagePositions,
  ropeTables,
  SINUSOID_WIDTH,
  textPositions,
  timestepEmbedding,
} from "./flux-positions.ts";

/** The same formula in double precision throughout. */
function exact(value: number): number[] {
  const half = SINUSOID_WIDTH / 2;
  const angles = Array.from({ length: half }, (_, i) => value * 10_000 ** (-i / half));
  return [...angles.map(Math.cos), ...angles.map(Math.sin)];
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - (b[i] ?? NaN))));
}

describe("sinusoids", () => {
  test("are cosines, then sines, of ever slower angles", () => {
    const values = timestepEmbedding(1, "float32");
    expect(values).toHaveLength(256);
    expect(values[0]).toBe(Math.fround(Math.cos(1)));
    expect(values[128]).toBe(Math.fround(Math.sin(1)));
    expect([...timestepEmbedding(0, "float32")]).toEqual(exact(0));
  });

  test.for([1000, 988.41, 500, 1.5])("timestep %d is near its exact value", (timestep) => {
    const error = largestDifference(timestepEmbedding(timestep, "float32"), exact(timestep));
    expect(error).toBeLessThan(2e-4); // float32 angles up to 1000
    expect(error).toBeGreaterThan(0);
  });

  test("a timestep is rounded as the pipeline and the network round it", () => {
    expect(timestepEmbedding(988.41, "bfloat16")).toEqual(timestepEmbedding(988, "bfloat16"));
    expect(timestepEmbedding(988.41, "float32")).not.toEqual(timestepEmbedding(988, "float32"));
  });

  test("guidance is a thousand times itself, in the run type", () => {
    expect(largestDifference(guidanceEmbedding(3.5, "float32"), exact(3500))).toBeLessThan(1e-3);
    // 3500 is 3504 in bfloat16; the sinusoid itself is rounded to 8 bits.
    expect(largestDifference(guidanceEmbedding(3.5, "bfloat16"), exact(3504))).toBeLessThan(3e-3);
  });

  test("guidance beyond the range of float16 stays finite", () => {
    expect(guidanceEmbedding(100, "float16").every(Number.isFinite)).toBe(true);
    expect(guidanceEmbedding(100, "float16")).toEqual(guidanceEmbedding(65.504, "float16"));
  });
});

describe("positions", () => {
  test("go row by row", () => {
    expect(imagePositions(2, 3)).toEqual([
      [0, 0, 0],
      [0, 0, 1],
      [0, 0, 2],
      [0, 1, 0],
      [0, 1, 1],
      [0, 1, 2],
    ]);
    expect(imagePositions(1, 1, 1)).toEqual([[1, 0, 0]]);
    expect(textPositions(2)).toEqual([
      [0, 0, 0],
      [0, 0, 0],
    ]);
  });

  test("turn each axis's share of the channels, the first pair by the place itself", () => {
    const { cos, sin } = ropeTables(
      [4, 2, 6],
      [
        [0, 0, 0],
        [3, 5, 7],
      ],
    );
    expect(cos.dims).toEqual([2, 6]);
    expect([...cos.data].slice(0, 6)).toEqual([1, 1, 1, 1, 1, 1]);
    expect([...sin.data].slice(0, 6)).toEqual([0, 0, 0, 0, 0, 0]);
    const angles = [3, 3 / 100, 5, 7, 7 / 10_000 ** (1 / 3), 7 / 10_000 ** (2 / 3)];
    expect(largestDifference(cos.data.slice(6) as Float32Array, angles.map(Math.cos))).toBeLessThan(
      1e-7,
    );
    expect(largestDifference(sin.data.slice(6) as Float32Array, angles.map(Math.sin))).toBeLessThan(
      1e-7,
    );
  });
});
