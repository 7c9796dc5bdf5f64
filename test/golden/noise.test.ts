/** Noise is torch's, bit for bit. */
import { createHash } from "node:crypto";
import { TorchGenerator } from "@fluxline/gpu-node/core/noise.ts";
import { describe, expect, test } from "vitest";
import { noiseCases } from "./golden-data.ts";

describe("torch.randn of", () => {
  for (const { seed, draws } of noiseCases) {
    const shapes = draws.map(({ shape }) => `[${shape.join(", ")}]`);
    test(`seed ${seed}, ${shapes.join(" then ")}`, () => {
      const generator = new TorchGenerator(BigInt.asUintN(64, BigInt(seed)));
      for (const { shape, sha256, firstHex } of draws) {
        const values = generator.normal(shape.reduce((product, size) => product * size, 1));
        const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
        const first = firstHex.map((_, i) => bytes.toString("hex", 4 * i, 4 * i + 4));
        expect(first).toEqual(firstHex);
        expect(createHash("sha256").update(bytes).digest("hex")).toBe(sha256);
      }
    });
  }
});
