/**
 * A group with weights in int8: their files are made by the first start and found by the next, and
 * the pictures are the same bytes whoever shares a batch, and with stages in processes of their own,
 * which want the same folder at the same time.
 */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import { finishedImages, ImageBench } from "../support/image-bench.ts";
import { noiseRatio } from "../support/noise-ratio.ts";
import { StageProcesses } from "../support/stage-processes.ts";

const model = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
const REQUEST: RequestedImage = { prompt: "a large red circle on a white background", seed: 7n };
/** An odd number of image tokens, 3 x 3, and of text tokens. */
const ODD: RequestedImage = { ...REQUEST, width: 48, height: 48, maxSequenceLength: 33, steps: 6 };

let cache: string;
let said: string[];

beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), "fluxline-cache-"));
  said = [];
});

afterEach(() => rmSync(cache, { recursive: true }));

const open = (options: Parameters<typeof ImageBench.open>[1] = {}): Promise<ImageBench> =>
  ImageBench.open(model, {
    quantisedFolder: join(cache, "quantised"),
    onQuantised: (message, { files }) => said.push(`${message}: ${String(files)}`),
    ...options,
  });

test("the second start finds what the first has made, and draws the same", async () => {
  const exact = await ImageBench.open(model);
  const [expected] = await exact.images(REQUEST);
  await exact.close();
  const pictures: Uint8Array[] = [];
  for (let start = 0; start < 2; start++) {
    const bench = await open();
    const [picture] = await bench.images(REQUEST);
    await bench.close();
    pictures.push(picture!.rgb);
  }
  expect(said).toEqual([
    "making weights in int8: 8",
    "weights in int8 made: 8",
    "weights in int8 found in the cache: 8",
  ]);
  expect(pictures[1]).toEqual(pictures[0]);
  const ratio = noiseRatio(pictures[0]!, expected!.rgb);
  expect(ratio).toBeGreaterThan(40);
  expect(ratio).toBeLessThan(99); // nothing would have been quantised
});

test("neither mates nor odd numbers of tokens change a byte", async () => {
  const bench = await open();
  const [alone] = await bench.images(ODD);
  const mates = [8n, 9n].map((seed) => bench.begin({ ...ODD, seed, prompt: "a blue star" }));
  const again = bench.begin(ODD);
  expect(finishedImages(await again.end)[0]!.rgb).toEqual(alone!.rgb);
  for (const { end } of mates) await end;
  await bench.close();
});

test("stages in processes of their own make each file once and draw the same", async () => {
  const whole = await open({ quantisedFolder: join(cache, "of-one") });
  const [expected] = await whole.images(ODD);
  await whole.close();
  said = [];
  const environment = { FLUXLINE_CACHE: cache };
  const options = ["--run-type", "int8", "--cuts", "1,3", "--place", "t5=1"];
  const processes = await StageProcesses.start(model, { stages: 3, options, environment });
  const bench = await open({ stages: 3, cuts: [1, 3], place: { t5: 1 }, processes });
  const [picture] = await bench.images(ODD);
  const logs = processes.processes.map((one) => one?.log() ?? "");
  await bench.close();
  await processes.close();
  expect(picture!.rgb).toEqual(expected!.rgb);
  // Rank 0 of this process has one block of its own; it is given all, as its model knows all.
  expect(said.some((line) => line.startsWith("weights in int8"))).toBe(true);
  expect(logs.slice(1).every((log) => log.includes("weights in int8"))).toBe(true);
  const [folder] = readdirSync(join(cache, "quantised"));
  const files = readdirSync(join(cache, "quantised", folder!));
  expect(files.filter((name) => name.endsWith(".safetensors"))).toHaveLength(8);
  expect(files).toHaveLength(8);
});
