/**
 * A replica group on a GPU: real runners, one stage and two on the same device. A request that is
 * run alone again must give its bytes again, also after its runner was killed; what a pipeline or
 * strangers in its batches change is measured and said.
 */
import { fileURLToPath } from "node:url";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import { expect, test } from "vitest";
import { ImageBench } from "../support/image-bench.ts";
import { describeOnGpu, gpuProvider } from "./provider.ts";

/** Levels of 255, on average over a picture. */
const MEAN_LEVELS_TOLERANCE = 1;

const folder = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
const provider = await gpuProvider(process.env["FLUXLINE_GPU_PROVIDER"]);

const ask = (change: Partial<RequestedImage> = {}): RequestedImage => ({
  prompt: "a large red circle in the top left on a yellow background",
  width: 64,
  height: 64,
  steps: 8,
  guidance: 3.5,
  seed: 7n,
  maxSequenceLength: 32,
  ...change,
});

async function onBench<T>(
  stages: number,
  provider: "cpu" | "cuda" | "tensorrt",
  use: (bench: ImageBench) => Promise<T>,
  onProgress?: (bench: ImageBench, steps: number) => void,
): Promise<T> {
  const told: { bench?: ImageBench } = {};
  const bench = await ImageBench.open(folder, {
    device: { provider, threads: 1 },
    stages,
    onProgress: (_, steps) => onProgress?.(told.bench!, steps),
  });
  told.bench = bench;
  return use(bench).finally(() => bench.close());
}

const picture = async (bench: ImageBench, change: Partial<RequestedImage> = {}) =>
  (await bench.images(ask(change)))[0]!.rgb;

function meanDifference(a: Uint8Array, b: Uint8Array): number {
  expect(a).toHaveLength(b.length);
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length;
}

function say(what: string, actual: Uint8Array, expected: Uint8Array): void {
  const mean = meanDifference(actual, expected);
  console.log(`${provider.name}, ${what}: ${mean === 0 ? "equal" : `${mean.toFixed(3)} levels`}`);
  expect(mean, what).toBeLessThan(MEAN_LEVELS_TOLERANCE);
}

describeOnGpu(provider, () => {
  test("draws what the CPU draws, and the same again", async () => {
    const onCpu = await onBench(1, "cpu", picture);
    await onBench(1, provider.name, async (bench) => {
      const alone = await picture(bench);
      say("one stage against the CPU", alone, onCpu);
      expect(await picture(bench)).toEqual(alone);
    });
  });

  test("of two stages on one device, and with strangers", async () => {
    const alone = await onBench(1, provider.name, picture);
    await onBench(2, provider.name, async (bench) => {
      say("two stages against one", await picture(bench), alone);
      const strangers = [1n, 2n, 3n].map((seed) => bench.begin(ask({ seed, steps: 5 })));
      say("two stages with strangers", await picture(bench), alone);
      for (const stranger of strangers) expect((await stranger.end).kind).toBe("finished");
    });
  });

  test("gives the same bytes after its runner was killed", async () => {
    const alone = await onBench(1, provider.name, picture);
    let killed = false;
    const after = await onBench(1, provider.name, picture, (bench, steps) => {
      if (steps !== 3 || killed) return;
      killed = true;
      process.kill(bench.runnerPid, "SIGKILL");
    });
    expect(killed).toBe(true);
    expect(after).toEqual(alone);
  });
});
