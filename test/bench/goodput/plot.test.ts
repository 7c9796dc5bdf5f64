import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { expect, test } from "vitest";
import { drawGoodput, type GainResult } from "./plot.ts";

const found = (mean: number) => ({ mean, margin: mean / 10 });

function result(gain: number, step: number): GainResult {
  const tuned = { grouping: "longest", batchMax: 8, waitMsMax: 0 } as const;
  const comparison = {
    stepBatching: found(step),
    requestBatching: found(0.5),
    oneByOne: { mean: 0, margin: 0 },
    overRequestBatching: found(step / 0.5),
    overOneByOne: undefined,
    tuned,
  };
  return { gain, comparison };
}

test("the plot names axes and policies, and leaves out what a logarithm cannot show", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fluxline-plot-"));
  try {
    await drawGoodput([result(1, 0.6), result(2, 5)], join(folder, "plot"));
    const svg = readFileSync(join(folder, "plot.svg"), "utf8");
    for (const words of [
      "step batching",
      "request batching, tuned",
      "one by one",
      "batching gain",
    ]) {
      expect(svg).toContain(words);
    }
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    const { width, height } = await sharp(join(folder, "plot.png")).metadata();
    expect(width).toBeGreaterThan(height);
    expect(width).toBeGreaterThan(1_000);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
