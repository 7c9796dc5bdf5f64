/**
 * Parts that are loaded for each use and let go after it, in real runners: the pictures are the
 * same bytes, the memory is given back, and what comes at once is loaded once.
 */
import { mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import { anonymousBytesOf } from "../bench/process-memory.ts";
import { type BenchOptions, ImageBench } from "../support/image-bench.ts";
import { type LargeEncoder, largeEncoder } from "../support/large-encoder.ts";
import { randomModel } from "../support/live-stack.ts";
import { until } from "../support/until.ts";

const ALL = ["clip", "t5", "vae"];
const ENCODERS = ["text_encoder", "text_encoder_2"];

const ask = (change: Partial<RequestedImage> = {}): RequestedImage => ({
  prompt: "a photo of a red cat",
  width: 64,
  height: 64,
  steps: 4,
  seed: 42n,
  maxSequenceLength: 16,
  ...change,
});
const guided = ask({ negativePrompt: "a dog", trueCfgScale: 3, imageCount: 2, previewCount: 1 });

const open: ImageBench[] = [];
async function bench(folder: string, options: BenchOptions): Promise<ImageBench> {
  const made = await ImageBench.open(folder, options);
  open.push(made);
  return made;
}
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

describe("all parts but the denoiser, sequential", () => {
  test.each<[string, BenchOptions]>([
    ["on one device", {}],
    ["with t5 on the CPU beside it", { place: { t5: "cpu" } }],
    ["over two stages", { stages: 2, place: { clip: 1 } }],
  ])("%s: the same bytes, and one request loads each of them once", async (_, options) => {
    const kept = await bench(randomModel, options);
    const expected = await kept.images(guided);
    expect(kept.loads).toEqual([]);
    const let_go = await bench(randomModel, { ...options, sequential: ALL });
    expect(await let_go.images(guided)).toEqual(expected);
    // Two texts were encoded; the decoder made the previews' probe, and two pictures at the end.
    expect(let_go.loads.filter((graph) => graph === "text_encoder")).toHaveLength(1);
    expect(let_go.loads.filter((graph) => graph === "text_encoder_2")).toHaveLength(1);
    expect(let_go.loads.filter((graph) => graph === "vae.decoder").length).toBeLessThanOrEqual(2);
  });

  test("an equal text is not encoded again, and another one loads the encoders again", async () => {
    const one = await bench(randomModel, { sequential: ["clip", "t5"] });
    await one.images(ask());
    await one.images(ask({ seed: 7n }));
    expect(one.loads).toEqual(ENCODERS);
    await one.images(ask({ prompt: "another" }));
    expect(one.loads).toEqual([...ENCODERS, ...ENCODERS]);
  });

  test("tiles of one picture load the decoder once", async () => {
    const one = await bench(randomModel, { sequential: ["vae"], decodeTile: 64 });
    await one.images(ask({ width: 128, height: 128 }));
    expect(one.loads).toEqual(["vae.decoder"]);
  });

  test("a runner that is killed comes back and goes on", async () => {
    let killed = false;
    const one = await bench(randomModel, {
      sequential: ALL,
      onProgress: (_, steps) => {
        if (steps !== 2 || killed) return;
        killed = true;
        process.kill(one.runnerPid, "SIGKILL");
      },
    });
    const kept = await bench(randomModel, {});
    expect(await one.images(ask())).toEqual(await kept.images(ask()));
    expect(one.runner.restarts).toBe(1);
  });
});

describe("an encoder of over 200 MB", () => {
  let parent: string;
  let large: LargeEncoder;

  beforeAll(() => {
    parent = mkdtempSync(join(tmpdir(), "fluxline-sequential-"));
    large = largeEncoder(join(parent, "large"));
    expect(large.weightBytes).toBeGreaterThan(200e6);
  });
  afterAll(() => rmSync(parent, { recursive: true, force: true }));

  test("is in memory while it encodes, and not while steps run nor afterwards", async () => {
    const held = { atStep: 0, most: 0 };
    const sample = (one: ImageBench): number => anonymousBytesOf(one.runnerPid);
    const options = (on: () => ImageBench, sequential: string[]): BenchOptions => ({
      sequential,
      onProgress: (_, steps) => {
        if (steps === 2) held.atStep = sample(on());
      },
    });
    const kept: ImageBench = await bench(
      large.folder,
      options(() => kept, []),
    );
    const expected = await kept.images(ask());
    const [keptIdle, keptAtStep] = [sample(kept), held.atStep];

    const one: ImageBench = await bench(
      large.folder,
      options(() => one, ["t5"]),
    );
    const timer = setInterval(() => (held.most = Math.max(held.most, sample(one))), 2);
    expect(await one.images(ask())).toEqual(expected);
    clearInterval(timer);
    const saved = 0.9 * large.weightBytes;
    expect(keptAtStep - held.atStep).toBeGreaterThan(saved);
    expect(held.most - held.atStep).toBeGreaterThan(saved);
    expect(keptIdle - sample(one)).toBeGreaterThan(saved);
    expect(one.runner.ready).toBe(true);
  });

  test("that was used last, with nothing behind it, is let go after a moment", async () => {
    const one = await bench(large.folder, { sequential: ["t5"], place: { t5: "cpu" } });
    const pid = one.runnerPids.at(-1)!;
    const before = anonymousBytesOf(pid);
    await one.images(ask({ steps: 1 }));
    await until(() => anonymousBytesOf(pid) - before < 0.1 * large.weightBytes, 5_000);
    expect(one.loads).toEqual(["text_encoder_2"]);
  });

  test("whose file is gone fails the call with its reason, unblamed; it may come back", async () => {
    const one = await bench(large.folder, { sequential: ["t5"] });
    renameSync(large.file, `${large.file}.away`);
    const end = await one.begin(ask()).end;
    renameSync(`${large.file}.away`, large.file);
    expect(end).toMatchObject({
      kind: "failed",
      blamed: false,
      error: { reason: "GRAPH_NOT_LOADED", retryable: true },
    });
    expect(await one.images(ask())).toHaveLength(1);
    expect(one.runner.restarts).toBe(0);
  });

  test("whose file is gone at the start is refused then", async () => {
    renameSync(large.file, `${large.file}.away`);
    const opened = ImageBench.open(large.folder, { sequential: ["t5"] });
    await expect(opened).rejects.toMatchObject({ name: "AppError" });
    renameSync(`${large.file}.away`, large.file);
  });
});
