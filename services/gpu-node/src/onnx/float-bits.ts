/**
 * The 16-bit floating point formats, bit by bit: what a value becomes when it is stored in one,
 * rounded to nearest, ties to even, as every runtime does.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { RunType } from "./graph.ts";

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

function float32Bits(value: number): number {
  scratchFloat[0] = value;
  return scratchBits[0] ?? 0;
}

function bitsFloat32(bits: number): number {
  scratchBits[0] = bits;
  return scratchFloat[0] ?? 0;
}

export function bfloat16Bits(value: number): number {
  const bits = float32Bits(value);
  if (Number.isNaN(value)) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function bfloat16Value(bits: number): number {
  return bitsFloat32(bits << 16);
}

export function float16Bits(value: number): number {
  const bits = float32Bits(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and more round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14: a multiple of 2^-24. The sum with 0.5 lets float32 arithmetic round it.
    return sign | (float32Bits(bitsFloat32(magnitude) + 0.5) - 0x3f000000);
  }
  const rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1);
  return sign | (rounded >>> 13);
}

export function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The value as a tensor of that type would hold it. */
export function roundTo(type: RunType, value: number): number {
  switch (type) {
    case "float32":
      return Math.fround(value);
    case "float16":
      return float16Value(float16Bits(value));
    case "bfloat16":
      return bfloat16Value(bfloat16Bits(value));
  }
}

/** The bytes of a tensor of that type. */
export function encodeFloats(type: RunType, values: readonly number[]): Uint8Array {
  assert(values.every(Number.isFinite), `constants must be finite: ${values.join(", ")}`);
  switch (type) {
    case "float32":
      return new Uint8Array(Float32Array.from(values).buffer);
    case "float16":
      return new Uint8Array(Uint16Array.from(values, float16Bits).buffer);
    case "bfloat16":
      return new Uint8Array(Uint16Array.from(values, bfloat16Bits).buffer);
  }
}

/** Largest finite float16. */
export const FLOAT16_MAX = 65504;

export const FLOAT_BYTES = { float32: 4, float16: 2, bfloat16: 2 } as const;

let float16Values: Float32Array | undefined;

/** The numbers of a tensor's bytes, written to `into`; the bytes may lie anywhere. */
export function decodeFloats(type: RunType, bytes: Uint8Array, into: Float32Array): void {
  const count = bytes.length / FLOAT_BYTES[type];
  assert(count === into.length, `${bytes.length} bytes of ${type} are no ${into.length} values`);
  if (type === "float32") {
    new Uint8Array(into.buffer, into.byteOffset, into.byteLength).set(bytes);
    return;
  }
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : new Uint8Array(bytes);
  const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, count);
  if (type === "bfloat16") {
    const bits = new Uint32Array(into.buffer, into.byteOffset, count);
    for (let i = 0; i < count; i++) bits[i] = halves[i]! << 16;
    return;
  }
  float16Values ??= Float32Array.from({ length: 65_536 }, (_, half) => float16Value(half));
  for (let i = 0; i < count; i++) into[i] = float16Values[halves[i]!]!;
}
