/**
 * The pipeline split inside one process tree: a picture must not depend on how many stages the
 * denoiser is cut into, where, or on where text is encoded and pictures are decoded.
 */
import { afterEach, describe, expect, test, beforeAll } from "vitest";
import { fileURLToPath } from "node:url";
import { AppError } from "@fluxline/kernel/error.ts";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import type { Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { type BenchOptions, finishedImages, ImageBench } from "../support/image-bench.ts";

const model = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
const BLOCKS = 6;

const ask = (change: Partial<RequestedImage> = {}): RequestedImage => ({
  prompt: "a red circle above a blue square",
  steps: 6,
  seed: 42n,
  ...change,
});

/** Requests of different steps and guidance, so that several micro-batches are in flight. */
const REQUESTS = [
  ask(),
  ask({ seed: 7n, steps: 9, guidance: 1, prompt: "a green triangle" }),
  ask({ seed: 8n, steps: 3, width: 96, height: 64 }),
  ask({ seed: 9n, negativePrompt: "a square", trueCfgScale: 2, imageCount: 2 }),
];

let bench: ImageBench | undefined;
let whole: readonly (readonly Pixels[])[];

async function pictures(options: BenchOptions): Promise<readonly (readonly Pixels[])[]> {
  bench = await ImageBench.open(model, options);
  const jobs = REQUESTS.map((request) => bench!.begin(request));
  const ends = await Promise.all(jobs.map(({ end }) => end));
  return ends.map(finishedImages);
}

async function close(): Promise<void> {
  await bench?.close();
  bench = undefined;
}

beforeAll(async () => {
  whole = await pictures({});
  await close();
});

afterEach(close);

describe("the same bytes as of one stage", () => {
  test.each<[string, BenchOptions]>([
    ["two stages, cut by cost", { stages: 2 }],
    ["three stages, cut by cost", { stages: 3 }],
    ["a cut after the first block", { stages: 2, cuts: [1] }],
    ["a cut before the last block", { stages: 2, cuts: [5] }],
    ["a stage for every block", { stages: BLOCKS }],
    [
      "text encoded and pictures decoded by stage 1",
      { stages: 2, place: { clip: 1, t5: 1, vae: 1 } },
    ],
    [
      "text encoded and pictures decoded beside the stages",
      { stages: 2, place: { clip: "cpu", t5: "cpu", vae: "cpu" } },
    ],
    [
      "as many micro-batches in flight as can be",
      { stages: 3, limits: { rowsMax: 1, stepsInFlightMax: 6 } },
    ],
  ])("%s", async (_, options) => {
    expect(await pictures(options)).toEqual(whole);
  });

  test("after the runner of a middle stage was killed under several micro-batches", async () => {
    const killed = new Set<number>();
    const found = await pictures({
      stages: 3,
      limits: { rowsMax: 1, stepsInFlightMax: 4 },
      onProgress: (_, steps) => {
        const rank = steps === 2 ? 1 : 2;
        if (steps > 3 || steps < 2 || killed.has(rank)) return;
        killed.add(rank);
        process.kill(bench!.runnerPids[rank]!, "SIGKILL");
      },
    });
    expect(found).toEqual(whole);
    expect(bench!.runners.map(({ restarts }) => restarts)).toEqual([0, 1, 1]);
  });
});

test("more stages than blocks are refused with the numbers", async () => {
  const refused = ImageBench.open(model, { stages: BLOCKS + 1 });
  await expect(refused).rejects.toThrow(AppError);
  await expect(refused).rejects.toThrow(`is ${BLOCKS + 1}; the model has ${BLOCKS} blocks`);
});
