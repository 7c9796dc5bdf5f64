/**
 * Memory that runs out under real runners: a batch is halved and everybody in it ends with the same
 * bytes, unblamed; what one request cannot have by itself ends it, with its reason.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { toAppError } from "@fluxline/kernel/error.ts";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import { ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { type BenchOptions, finishedImages, ImageBench } from "../support/image-bench.ts";
import { LiveStack, randomModel } from "../support/live-stack.ts";
import { shortOf } from "../support/short-runner.ts";

/** Rows of a step that the devices of these tests have memory for. */
const ROWS_THAT_FIT = 2;

const ask = (change: Partial<RequestedImage> = {}): RequestedImage => ({
  prompt: "a photo of a red cat",
  width: 64,
  height: 64,
  steps: 6,
  guidance: 3.5,
  seed: 42n,
  maxSequenceLength: 16,
  ...change,
});

describe("a scheduler and a group that has memory for two rows", () => {
  const spec = (seed: bigint, numInferenceSteps = 100) => ({
    prompt: "a photo of a red cat",
    numInferenceSteps,
    guidanceScale: 3.5,
    seed,
    width: 64,
    height: 64,
  });
  const seeds = [1n, 2n, 3n, 4n];
  let stack: LiveStack;

  beforeAll(async () => {
    stack = await LiveStack.start();
  });
  afterAll(() => stack.stop());

  test("halve a batch of four: the same bytes, one attempt each, and nobody is blamed", async () => {
    const limits = ["--max-batch", "4", "--batching", "full"];
    const group = await stack.group("g0", limits, shortOf({ hidden_states: ROWS_THAT_FIT }));
    const undisturbed: string[][] = [];
    for (const seed of seeds) undisturbed.push(await stack.pictures(await stack.begin(spec(seed))));
    expect(failedBatches(group.log())).toEqual([]);

    const ids = await Promise.all(seeds.map((seed) => stack.begin(spec(seed))));
    for (const [i, id] of ids.entries()) {
      expect(await stack.pictures(id)).toEqual(undisturbed[i]);
      const { attempt, blamedFailures, suspect, fruitlessAttempts } = await stack.record(id);
      expect({ attempt, blamedFailures, suspect, fruitlessAttempts }).toEqual({
        attempt: 1n,
        blamedFailures: 0,
        suspect: false,
        fruitlessAttempts: 0,
      });
      expect(stack.history(id).judge([])).toEqual([]);
    }
    // Three or four rows were tried, once each at most: then batches had half of them.
    const failed = failedBatches(group.log());
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length).toBeLessThanOrEqual(2);
    for (const rows of failed) expect(rows).toBeGreaterThan(ROWS_THAT_FIT);
    expect(group.log()).not.toContain("runner died");
  });
});

/** Rows of the batches that a group's log says were too large, in order. */
function failedBatches(log: string): number[] {
  const lines = log.split("\n").filter((line) => line.includes("batch failed"));
  return lines.map((line) => {
    expect(line).toContain("DEVICE_OUT_OF_MEMORY");
    return Number(/rows\W+(\d+)/.exec(line)?.[1]);
  });
}

async function withBench<T>(
  options: BenchOptions,
  use: (bench: ImageBench) => Promise<T>,
): Promise<T> {
  const bench = await ImageBench.open(randomModel, options);
  try {
    return await use(bench);
  } finally {
    await bench.close();
  }
}

describe("an engine whose device is short of memory", () => {
  test("makes the images of one request in batches of what fits", async () => {
    const request = ask({ imageCount: 4, seed: 3n });
    const whole = await withBench({}, (bench) => bench.images(request));
    const failed: number[] = [];
    const environment = shortOf({ hidden_states: ROWS_THAT_FIT });
    const onBatchFailed = (rows: number): void => void failed.push(rows);
    const halved = await withBench({ environment, onBatchFailed }, (bench) =>
      bench.images(request),
    );
    expect(failed).toEqual([4]);
    expect(halved.map(({ rgb }) => rgb)).toEqual(whole.map(({ rgb }) => rgb));
  });

  test("does so where the second of two stages lacks it, with steps in flight at both", async () => {
    const requests = [3n, 4n].map((seed) => ask({ imageCount: 3, seed }));
    const draw = async (bench: ImageBench) => {
      const jobs = requests.map((request) => bench.begin(request));
      return Promise.all(jobs.map(async ({ end }) => finishedImages(await end)));
    };
    const whole = await withBench({}, draw);
    const failed: number[] = [];
    const onBatchFailed = (rows: number): void => void failed.push(rows);
    // What the second stage is handed at block 1; the first has memory enough.
    const environment = shortOf({ "temb.1": ROWS_THAT_FIT });
    const options = { stages: 2, cuts: [1], environment, onBatchFailed };
    const halved = await withBench(options, draw);
    expect(failed.length).toBeGreaterThan(0);
    for (const rows of failed) expect(rows).toBeGreaterThan(ROWS_THAT_FIT);
    expect(halved).toEqual(whole);
  });

  test.each<[string, Record<string, number>, Partial<RequestedImage>, RegExp]>([
    [
      "a step of one row",
      { hidden_states: 0 },
      {},
      /a step of one row of 64 x 64 with 16 text tokens .*buffer of size.*; use a smaller size/,
    ],
    [
      "a step of the two rows of true guidance",
      { hidden_states: 1 },
      { negativePrompt: "a dog", trueCfgScale: 4 },
      /a step of two rows of 64 x 64 .*leave true_cfg_scale out/,
    ],
    ["a text encoding", { input_ids: 0 }, {}, /encoding of 16 text tokens.*max_sequence_length/],
    ["a decode", { latent_sample: 0 }, {}, /decode of a picture of 64 x 64.*--decode-tile/],
    ["a probe", { latent_sample: 0 }, { previewCount: 2 }, /previews rest/],
  ])("ends a request that it cannot do by itself: %s", async (_, short, change, message) => {
    await withBench({ environment: shortOf(short) }, async (bench) => {
      const end = await bench.begin(ask(change)).end;
      expect(end).toMatchObject({
        kind: "failed",
        error: { code: "resource_exhausted", reason: "DEVICE_OUT_OF_MEMORY", retryable: false },
      });
      if (end.kind === "failed") expect(end.error.message).toMatch(message);
      expect(bench.runner.restarts).toBe(0);
    });
  });
});

const hasPrlimit = spawnSync("prlimit", ["--version"]).error === undefined;

test.skipIf(!hasPrlimit)(
  "the runtime's own words are understood when its process may not grow (needs prlimit)",
  async () => {
    await withBench({}, async (bench) => {
      const small = (await bench.images(ask()))[0]!.rgb;
      const status = readFileSync(`/proc/${bench.runnerPid}/status`, "utf8");
      const bytes = Number(/VmSize:\s+(\d+) kB/.exec(status)![1]) * 1024;
      const limit = `--as=${bytes + 24 * 2 ** 20}`;
      execFileSync("prlimit", ["--pid", String(bench.runnerPid), limit]);
      const error = await bench
        .images(ask({ width: 512, height: 512, steps: 1 }))
        .catch(toAppError);
      expect(error).toMatchObject({ reason: "DEVICE_OUT_OF_MEMORY" });
      // The runner lives, and what fits is as it was.
      expect((await bench.images(ask()))[0]!.rgb).toEqual(small);
      expect(bench.runner.restarts).toBe(0);
    });
  },
);

test("a request that ran out of memory ends FAILED for its client, with the numbers", async () => {
  const stack = await LiveStack.start();
  try {
    await stack.group("g0", [], shortOf({ hidden_states: 1 }));
    const job = await stack.ended(
      await stack.begin({
        prompt: "a photo of a red cat",
        negativePrompt: "a dog",
        trueCfgScale: 4,
        numInferenceSteps: 3,
        width: 64,
        height: 64,
      }),
    );
    expect(job.state).toBe(State.STATE_FAILED);
    expect(job.error?.message).toContain("a step of two rows of 64 x 64");
  } finally {
    await stack.stop();
  }
});
