/**
 * The engine and a real runner on the golden checkpoints: what the picture is must not depend on
 * who shares a batch, on where it was interrupted, or on how often the runner died.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fileURLToPath } from "node:url";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import { finishedImages, ImageBench } from "../support/image-bench.ts";

const folder = (name: string): string =>
  fileURLToPath(new URL(`../golden/data/checkpoints/${name}`, import.meta.url));

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

let onProgress: ((id: string, stepsDone: number) => void) | undefined;
let bench: ImageBench;
let alone: Uint8Array;

beforeAll(async () => {
  bench = await ImageBench.open(folder("dev-like"), {
    onProgress: (id, steps) => onProgress?.(id, steps),
  });
  alone = (await bench.images(ask()))[0]!.rgb;
});

afterAll(() => bench.close());

describe("the same request gives the same bytes", () => {
  test("again", async () => {
    expect((await bench.images(ask()))[0]!.rgb).toEqual(alone);
  });

  test("in a batch with strangers of other steps, guidance, seeds and prompts", async () => {
    const strangers = [
      ask({ seed: 7n, steps: 3, guidance: 1, prompt: "two dogs" }),
      ask({ seed: 8n, steps: 9, guidance: 7, prompt: "" }),
      ask({ seed: 9n, negativePrompt: "a dog", trueCfgScale: 3 }),
    ].map((request) => bench.begin(request));
    const job = bench.begin(ask());
    expect(finishedImages(await job.end)[0]!.rgb).toEqual(alone);
    for (const stranger of strangers) expect((await stranger.end).kind).toBe("finished");
  });

  test("as the first of three images drawn from one generator", async () => {
    const three = await bench.images(ask({ imageCount: 3 }));
    expect(three).toHaveLength(3);
    expect(three[1]!.rgb).not.toEqual(three[0]!.rgb);
    const again = await bench.images(ask({ imageCount: 3 }));
    expect(again.map((image) => image.rgb)).toEqual(three.map((image) => image.rgb));
  });

  test("after the runner was killed in the middle", async () => {
    const deaths = bench.runner.restarts;
    onProgress = (_, steps) => {
      if (steps === 3 && bench.runner.restarts === deaths) process.kill(bench.runnerPid, "SIGKILL");
    };
    const [image] = await bench.images(ask());
    onProgress = undefined;
    expect(bench.runner.restarts).toBe(deaths + 1);
    expect(image!.rgb).toEqual(alone);
  });

  test("after it was handed back at a boundary and begun again from there", async () => {
    onProgress = (id, steps) => {
      if (steps === 4) bench.engine.revoke(id, "preempted");
    };
    const end = await bench.begin(ask()).end;
    onProgress = undefined;
    if (end.kind !== "released") throw new Error(`the job was ${end.kind}`);
    // The step that was being prepared when the revoke came may or may not have been begun.
    expect(end.units).toMatchObject([{ index: 0 }]);
    expect(end.units[0]!.step).toBeGreaterThanOrEqual(4);
    expect(end.units[0]!.step).toBeLessThanOrEqual(5);
    const rest = bench.begin(ask(), end.units);
    expect(finishedImages(await rest.end)[0]!.rgb).toEqual(alone);
  });
});

test("a cancel takes effect within one step and leaves the others alone", async () => {
  const stepsSeen: number[] = [];
  const victim = bench.begin(ask({ steps: 200 }));
  const mate = bench.begin(ask());
  onProgress = (id, steps) => {
    if (id !== victim.id) return;
    stepsSeen.push(steps);
    if (steps === 5) bench.engine.revoke(id, "cancelled");
  };
  expect((await victim.end).kind).toBe("released");
  onProgress = undefined;
  expect(stepsSeen.at(-1)).toBeLessThanOrEqual(6);
  expect(finishedImages(await mate.end)[0]!.rgb).toEqual(alone);
});

test("an equal prompt is encoded once", async () => {
  const calls: string[] = [];
  const run = bench.runner.run.bind(bench.runner);
  bench.runner.run = (call) => {
    calls.push(call.graph);
    return run(call);
  };
  await bench.images(ask({ prompt: "a prompt of its own" }));
  await bench.images(ask({ prompt: "a prompt of its own", seed: 1n }));
  bench.runner.run = run;
  expect(calls.filter((graph) => graph === "text_encoder")).toHaveLength(1);
  expect(calls.filter((graph) => graph === "text_encoder_2")).toHaveLength(1);
});
