/**
 * Previews of flux-tiny, the engine with a real runner: they look like the picture that comes, more
 * so with every one, at the right steps, and the picture does not know of them.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fileURLToPath } from "node:url";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import type { ImagePreview } from "@fluxline/gpu-node/adapters/preview-maker.ts";
import type { Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { finishedImages, ImageBench } from "../support/image-bench.ts";

const model = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
/** Pixels of a picture for one of a preview, along each side. */
const CELL = 8;

type Seen = { readonly stepsDone: number } | ImagePreview;

let bench: ImageBench;
let seen: Map<string, Seen[]>;
let onProgress: ((id: string, stepsDone: number) => void) | undefined;

beforeAll(() => open());
afterAll(() => bench.close());

async function open(): Promise<void> {
  seen = new Map();
  const note = (id: string, what: Seen): void => void seen.set(id, [...(seen.get(id) ?? []), what]);
  bench = await ImageBench.open(model, {
    onProgress: (id, stepsDone) => {
      note(id, { stepsDone });
      onProgress?.(id, stepsDone);
    },
    onPreview: note,
  });
}

const ask = (change: Partial<RequestedImage> = {}): RequestedImage => ({
  prompt: "a large red circle in the top left on a yellow background",
  steps: 12,
  seed: 1n,
  previewCount: 3,
  ...change,
});

function previewsOf(id: string): ImagePreview[] {
  return (seen.get(id) ?? []).filter((each) => "pixels" in each);
}

async function draw(request: RequestedImage): Promise<{ id: string; images: readonly Pixels[] }> {
  const { id, end } = bench.begin(request);
  return { id, images: finishedImages(await end) };
}

/** The picture with one pixel for each of its cells, the mean of theirs. */
function shrunk({ width, height, rgb }: Pixels): Pixels {
  const [columns, rows] = [width / CELL, height / CELL];
  const sums = new Float64Array(columns * rows * 3);
  rgb.forEach((level, at) => {
    const [x, y] = [Math.floor(at / 3) % width, Math.floor(at / 3 / width)];
    const cell = Math.floor(y / CELL) * columns + Math.floor(x / CELL);
    sums[cell * 3 + (at % 3)]! += level / (CELL * CELL);
  });
  return { width: columns, height: rows, rgb: Uint8Array.from(sums, Math.round) };
}

/** Likeness in decibels: 20 is a mean error of a tenth of the range. */
function likeness(a: Pixels, b: Pixels): number {
  expect([a.width, a.height]).toEqual([b.width, b.height]);
  const squares = a.rgb.reduce((sum, level, i) => sum + (level - b.rgb[i]!) ** 2, 0);
  return 10 * Math.log10(255 ** 2 / (squares / a.rgb.length));
}

function evenly(level: number, { width, height }: Pixels): Pixels {
  return { width, height, rgb: new Uint8Array(width * height * 3).fill(level) };
}

describe("previews look like the picture", () => {
  const prompts = [
    "a large red circle in the top left on a yellow background",
    "a small blue star on a white background",
    "a large green heart on the left on a pink background",
    "a large orange square in the center on a purple background",
    "a large blue circle on an orange background",
  ];

  test("from the first request of a model on, and more so from one to the next", async () => {
    for (const [i, prompt] of prompts.entries()) {
      const { id, images } = await draw(ask({ prompt, seed: BigInt(i) }));
      const picture = shrunk(images[0]!);
      const levels = previewsOf(id).map(({ pixels }) => likeness(pixels, picture));
      expect(levels).toHaveLength(3);
      const grey = likeness(evenly(128, picture), picture);
      expect(grey, prompt).toBeLessThan(12);
      expect(levels[2], prompt).toBeGreaterThan(20);
      expect(levels[2], prompt).toBeGreaterThan(levels[0]!);
    }
  });

  test("in a picture that is no square too", async () => {
    const { id, images } = await draw(ask({ width: 96, height: 64, seed: 3n }));
    const last = previewsOf(id).at(-1)!.pixels;
    expect([last.width, last.height]).toEqual([12, 8]);
    expect(likeness(last, shrunk(images[0]!))).toBeGreaterThan(20);
  });
});

describe("previews come", () => {
  test("right after the progress of their step, before that of the next", async () => {
    const { id } = await draw(ask());
    const order = seen
      .get(id)!
      .map((each) => ("pixels" in each ? `p${each.step}` : each.stepsDone));
    expect(order).toEqual([1, 2, 3, "p3", 4, 5, 6, "p6", 7, 8, 9, "p9", 10, 11, 12]);
  });

  test("of every image of a request, with true guidance too", async () => {
    const guided = { negativePrompt: "a green background", trueCfgScale: 2 };
    const { id, images } = await draw(ask({ imageCount: 3, previewCount: 2, ...guided }));
    const found = previewsOf(id).map(({ index, step }) => `${index} at ${step}`);
    expect(found.sort()).toEqual(["0 at 4", "0 at 8", "1 at 4", "1 at 8", "2 at 4", "2 at 8"]);
    for (const { index, step, pixels } of previewsOf(id)) {
      if (step === 8) expect(likeness(pixels, shrunk(images[index]!))).toBeGreaterThan(18);
    }
  });

  test("for who asked only, in a batch with others", async () => {
    const others = [bench.begin(ask({ previewCount: 0 })), bench.begin(ask({ previewCount: 1 }))];
    const { id } = await draw(ask({ seed: 9n }));
    for (const { end } of others) await end;
    expect(previewsOf(id)).toHaveLength(3);
    expect(others.map((other) => previewsOf(other.id).length)).toEqual([0, 1]);
  });

  test("after a hand-over as far as they remain", async () => {
    onProgress = (id, stepsDone) => {
      if (stepsDone === 4) bench.engine.revoke(id, "preempted");
    };
    const first = bench.begin(ask());
    const end = await first.end;
    onProgress = undefined;
    if (end.kind !== "released") throw new Error(`the job was ${end.kind}`);
    const second = bench.begin(ask(), end.units);
    await second.end;
    const steps = [first, second].map(({ id }) => previewsOf(id).map(({ step }) => step));
    expect(steps.flat()).toEqual([3, 6, 9]);
    expect(steps[0]![0]).toBe(3);
  });
});

test("the picture has the same bytes with previews and without, alone and in a batch", async () => {
  const plain = (await draw(ask({ previewCount: 0 }))).images[0]!;
  expect((await draw(ask({ previewCount: 11 }))).images[0]!.rgb).toEqual(plain.rgb);
  const mates = [bench.begin(ask({ seed: 4n })), bench.begin(ask({ seed: 5n, previewCount: 11 }))];
  expect((await draw(ask())).images[0]!.rgb).toEqual(plain.rgb);
  for (const { end } of mates) expect((await end).kind).toBe("finished");
});

test("the map is begun with one decode, when the first request asks, and after a death again", async () => {
  await bench.close();
  await open();
  const decodes = (): number => calls.filter((graph) => graph === bench.model.decoder).length;
  const calls: string[] = [];
  const run = bench.runner.run.bind(bench.runner);
  let killed = false;
  bench.runner.run = (call) => {
    calls.push(call.graph);
    const outcome = run(call);
    // The second decode is the probe: the first was that of a picture without previews.
    if (decodes() === 2 && !killed) {
      killed = true;
      process.kill(bench.runnerPid, "SIGKILL");
    }
    return outcome;
  };
  await draw(ask({ previewCount: 0 }));
  expect(decodes()).toBe(1);
  const { id } = await draw(ask());
  expect(bench.runner.restarts).toBe(1);
  expect(previewsOf(id)).toHaveLength(3);
  await draw(ask({ seed: 2n }));
  expect(decodes()).toBe(5); // two probes, three pictures
});
