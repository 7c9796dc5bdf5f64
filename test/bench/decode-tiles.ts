/**
 * What decoding in tiles costs and how far its pictures are from whole ones, at the seams and
 * elsewhere; and a sheet of both beside one another, to look at: out/decode-tiles-*.png.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { encodeImage } from "@fluxline/gpu-node/adapters/image-file.ts";
import { axisTiles } from "@fluxline/gpu-node/core/decode-tiles.ts";
import type { Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { ImageBench } from "../support/image-bench.ts";
import { type Bands, edgeAt, psnr, seamDifference } from "../support/picture-difference.ts";
import { anonymousBytesOf } from "./process-memory.ts";
import { median, type Measurement } from "./measurement.ts";

/** Differences are shown this much larger. */
const SHOWN_LARGER = 8;

export interface TileCase {
  readonly folder: string;
  readonly prompt: string;
  readonly steps: number;
  readonly side: number;
  readonly tile: number;
}

export async function decodeTiles(root: string, cases: readonly TileCase[]) {
  const measurements: Measurement[] = [];
  for (const one of cases) measurements.push(...(await measureCase(root, one)));
  return measurements;
}

async function measureCase(root: string, one: TileCase): Promise<Measurement[]> {
  const { picture: whole, ...wholeCost } = await drawn(one, 0);
  const { picture: tiled, ...tiledCost } = await drawn(one, one.tile);
  const bands = seamBands(one);
  const { seams, elsewhere } = seamDifference(whole, tiled, { rows: bands, columns: bands });
  const edges = bands.flatMap(({ first, end }) => [first, end, (first + end) >> 1]);
  const edge = Math.max(...edges.map((at) => edgeAt(tiled, at) - edgeAt(whole, at)));
  const name = `${basename(one.folder)} ${one.side}, tiles of ${one.tile}`;
  const file = join(root, "out", `decode-tiles-${name.replaceAll(/\W+/g, "-")}.png`);
  mkdirSync(join(root, "out"), { recursive: true });
  const sheet = sideBySide([whole, tiled, differenceOf(whole, tiled)]);
  writeFileSync(file, (await encodeImage(sheet, "png", 100, new Map())).bytes);
  const note = `8-bit steps; seams ${seams.mean.toFixed(2)}, elsewhere ${elsewhere.mean.toFixed(2)} on average`;
  return [
    { name: `${name}: PSNR`, value: psnr(whole, tiled), unit: "dB", note: "over the whole decode" },
    { name: `${name}: largest at seams`, value: seams.largest, unit: "steps", note },
    { name: `${name}: largest elsewhere`, value: elsewhere.largest, unit: "steps", note },
    { name: `${name}: edge`, value: edge, unit: "steps", note: "sharpest that only tiles draw" },
    {
      name: `${name}: time`,
      value: tiledCost.seconds / wholeCost.seconds,
      unit: "ratio",
      note: "of decoding, over the whole decode",
    },
    {
      name: `${name}: memory`,
      value: tiledCost.bytes / wholeCost.bytes,
      unit: "ratio",
      note: `growth of the runner by one request, over ${(wholeCost.bytes / 2 ** 20).toFixed(0)} MiB`,
    },
  ];
}

interface Drawn {
  readonly picture: Pixels;
  /** Of its decode: the median of three. */
  readonly seconds: number;
  /** Anonymous memory that the runner has gained by the end. */
  readonly bytes: number;
}

async function drawn(one: TileCase, decodeTile: number): Promise<Drawn> {
  const { folder, prompt, steps, side } = one;
  const bench = await ImageBench.open(folder, { decodeTile });
  const before = anonymousBytesOf(bench.runnerPid);
  let seconds = 0;
  const run = bench.devices.run.bind(bench.devices);
  bench.devices.run = async (call) => {
    const result = await run(call);
    if (call.graph === bench.model.decoder) seconds += result.seconds;
    return result;
  };
  const request = { prompt, steps, width: side, height: side, seed: 7n, maxSequenceLength: 64 };
  const times: number[] = [];
  let picture: Pixels | undefined;
  for (let run = 0; run < 3; run++) {
    seconds = 0;
    [picture] = await bench.images(request);
    times.push(seconds);
  }
  const bytes = anonymousBytesOf(bench.runnerPid) - before;
  await bench.close();
  return { picture: picture!, seconds: median(times), bytes };
}

function seamBands({ side, tile }: TileCase): Bands {
  const scale = 8;
  const { starts, cells } = axisTiles(side / scale, tile / scale);
  return starts.slice(1).map((start, i) => {
    return { first: start * scale, end: (starts[i]! + cells) * scale };
  });
}

function differenceOf(a: Pixels, b: Pixels): Pixels {
  const rgb = a.rgb.map((value, i) => Math.min(255, SHOWN_LARGER * Math.abs(value - b.rgb[i]!)));
  return { ...a, rgb };
}

function sideBySide(pictures: readonly Pixels[]): Pixels {
  const [{ width, height }] = pictures as readonly [Pixels];
  const gap = 4;
  const across = pictures.length * (width + gap) - gap;
  const rgb = new Uint8Array(across * height * 3).fill(255);
  for (const [i, picture] of pictures.entries()) {
    for (let y = 0; y < height; y++) {
      const row = picture.rgb.subarray(y * width * 3, (y + 1) * width * 3);
      rgb.set(row, (y * across + i * (width + gap)) * 3);
    }
  }
  return { width: across, height, rgb };
}
