import { createHash } from "node:crypto";
import { Random } from "@fluxline/kernel/random.ts";
import { describe, expect, test } from "vitest";
import { fusedMultiplyAdd, TorchGenerator } from "./noise.ts";

/** sha256 over the float32 bytes of successive `torch.randn` draws (torch 2.15, AVX2). */
const DRAWS: Record<string, [seed: bigint, sizes: number[], sha256: string]> = {
  "seed 0": [0n, [1024], "443a9fa4ffb0e2221dbc5b56bec0b8ccb4510a8a94a903e8321dfa3b2d99d55b"],
  "the latents of a 1024x1024 picture": [
    42n,
    [262144],
    "9d775f7135ddb2c8e138af1eeef8cdc1aeb25afeba22820c28e98f22794622f7",
  ],
  "one block": [5n, [16], "f7a0c6f8193b0c2e81ca38d76d75bfcd3efd9e504e49779b994efb555252d0b0"],
  "a seed above 2^32 by its low 32 bits": [
    2n ** 32n + 5n,
    [16],
    "f7a0c6f8193b0c2e81ca38d76d75bfcd3efd9e504e49779b994efb555252d0b0",
  ],
  "the highest seed": [
    2n ** 64n - 1n,
    [64],
    "21db4d05293093bd7f58ab1bf71d245ea170bcb9c0c9ac662e28ecab45e5517e",
  ],
  "a size that is not a multiple of 16": [
    7n,
    [1000],
    "4b1786693e247183aa6805eda7226207ca2fdca77c968b6aeec55afad3ae95ad",
  ],
  "long and short draws one after another": [
    7n,
    [17, 100, 3, 16, 5, 5],
    "ce169a09a789eb284e28869ab15ae7c76cb3f3e45f719b52cf8c6375faff32ab",
  ],
  "short draws that share pairs": [
    123n,
    [8, 7, 1, 40],
    "0a356b310cf903d695d05e8d81d8e256e81d1026c5d894f63a9d61d58724b0fb",
  ],
};

describe("TorchGenerator draws torch's bits for", () => {
  for (const [name, [seed, sizes, sha256]] of Object.entries(DRAWS)) {
    test(name, () => {
      const generator = new TorchGenerator(seed);
      const hash = createHash("sha256");
      for (const size of sizes) {
        const { buffer, byteOffset, byteLength } = generator.normal(size);
        hash.update(new Uint8Array(buffer, byteOffset, byteLength));
      }
      expect(hash.digest("hex")).toBe(sha256);
    });
  }
});

test("four values as torch prints them", () => {
  expect([...new TorchGenerator(1234n).normal(4)]).toEqual([
    0.0461304634809494, 0.4024028182029724, -1.0115290880203247, 0.2167382389307022,
  ]);
});

describe("fusedMultiplyAdd", () => {
  test("rounds once where rounding twice goes wrong", () => {
    // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24, a tie to even downwards; 2^-60 more must go up.
    const root = 1 + 2 ** -12;
    expect(fusedMultiplyAdd(root, root, 0)).toBe(1 + 2 ** -11);
    expect(fusedMultiplyAdd(root, root, 2 ** -60)).toBe(1 + 2 ** -11 + 2 ** -23);
    expect(fusedMultiplyAdd(-root, root, -(2 ** -60))).toBe(-(1 + 2 ** -11 + 2 ** -23));
    expect(fusedMultiplyAdd(root, root, -(2 ** -60))).toBe(1 + 2 ** -11);
  });

  test("agrees with exact arithmetic on random values of all scales", () => {
    const random = new Random(11);
    const draw = (): number => Math.fround((random.float() - 0.5) * 2 ** (random.below(50) - 25));
    for (let i = 0; i < 20_000; i++) {
      const [a, b, c] = [draw(), draw(), draw()];
      expect(fusedMultiplyAdd(a, b, c), `${a} * ${b} + ${c}`).toBe(exactly(a, b, c));
    }
  });
});

const SCALE = 200;

/** a * b + c in whole numbers of 2^-400, then rounded once to 24 bits, ties to even. */
function exactly(a: number, b: number, c: number): number {
  const whole = (value: number): bigint => BigInt(value * 2 ** SCALE);
  const sum = whole(a) * whole(b) + (whole(c) << BigInt(SCALE));
  const size = sum < 0n ? -sum : sum;
  const shift = BigInt(Math.max(0, size.toString(2).length - 24));
  const unit = 1n << shift;
  const half = unit >> 1n;
  const kept = size >> shift;
  const rest = size - (kept << shift);
  const up = rest > half || (rest === half && half > 0n && (kept & 1n) === 1n);
  const magnitude = Number(kept + (up ? 1n : 0n)) * 2 ** (Number(shift) - 2 * SCALE);
  return sum < 0n ? -magnitude : magnitude;
}
