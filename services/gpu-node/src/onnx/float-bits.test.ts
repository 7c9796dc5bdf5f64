import { describe, expect, test } from "vitest";
import {
  bfloat16Bits,
  bfloat16Value,
  decodeFloats,
  encodeFloats,
  float16Bits,
  float16Value,
  roundTo,
} from "./float-bits.ts";

/** Every finite value of a 16-bit format, in order of its bits. */
function positive(value: (bits: number) => number, infinityBits: number): number[] {
  return Array.from({ length: infinityBits }, (_, bits) => value(bits));
}

describe.for<[string, (value: number) => number, (bits: number) => number, number]>([
  ["float16", float16Bits, float16Value, 0x7c00],
  ["bfloat16", bfloat16Bits, bfloat16Value, 0x7f80],
])("%s", ([, bitsOf, valueOf, infinityBits]) => {
  const values = positive(valueOf, infinityBits);

  test("every value keeps its bits, with either sign", () => {
    for (const [bits, value] of values.entries()) {
      expect(bitsOf(value)).toBe(bits);
      expect(bitsOf(-value)).toBe(bits | 0x8000);
    }
  });

  test("what lies between two values goes to the nearer one, a tie to the even one", () => {
    for (let bits = 0; bits + 1 < values.length; bits++) {
      const [low, high] = [values[bits]!, values[bits + 1]!];
      const middle = Math.fround((low + high) / 2);
      if (middle === low || middle === high) continue; // float32 has no value between
      expect(bitsOf(middle)).toBe(bits % 2 === 0 ? bits : bits + 1);
      const nearHigh = Math.fround(low + (high - low) * 0.75);
      if (nearHigh > middle) expect(bitsOf(nearHigh)).toBe(bits + 1);
    }
  });

  test("infinity and NaN", () => {
    expect(bitsOf(Infinity)).toBe(infinityBits);
    expect(valueOf(bitsOf(-Infinity))).toBe(-Infinity);
    expect(valueOf(bitsOf(NaN))).toBeNaN();
  });
});

test("values that do not fit", () => {
  expect(roundTo("float16", 65519)).toBe(65504);
  expect(roundTo("float16", 65520)).toBe(Infinity);
  expect(roundTo("bfloat16", 988.41)).toBe(988);
  expect(roundTo("bfloat16", 3500)).toBe(3504);
  expect(roundTo("float32", 0.1)).toBe(Math.fround(0.1));
});

test.each(["float32", "float16", "bfloat16"] as const)("bytes of %s become numbers", (type) => {
  const values = [1, -2, 0.5, 0, -1024];
  const into = new Float32Array(values.length);
  for (const shift of [0, 1]) {
    const bytes = Buffer.concat([Buffer.alloc(shift), encodeFloats(type, values)]).subarray(shift);
    decodeFloats(type, bytes, into);
    expect([...into], `${shift} bytes off`).toEqual(values);
  }
});

test("constants are little-endian and finite", () => {
  expect([...encodeFloats("float16", [1, -2])]).toEqual([0x00, 0x3c, 0x00, 0xc0]);
  expect([...encodeFloats("bfloat16", [1])]).toEqual([0x80, 0x3f]);
  expect([...encodeFloats("float32", [1])]).toEqual([0, 0, 0x80, 0x3f]);
  expect(() => encodeFloats("float32", [NaN])).toThrow("finite");
});
