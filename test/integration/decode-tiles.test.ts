/** Pictures decoded in tiles beside the same decoded whole, by real decoders. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import type { GraphCall } from "@fluxline/gpu-node/adapters/runner/device-runner.ts";
import { ImageBench } from "../support/image-bench.ts";
import { randomModel } from "../support/live-stack.ts";
import { edgeAt, psnr } from "../support/picture-difference.ts";

const TILE = 64;
const tiny = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));

const ask = (change: Partial<RequestedImage> = {}): RequestedImage => ({
  prompt: "a red circle on a blue background",
  width: 128,
  height: 128,
  steps: 8,
  seed: 7n,
  maxSequenceLength: 64,
  ...change,
});

/** Sizes of what the decoder was given, in cells: [height, width]. */
function watchDecoder(bench: ImageBench): (readonly number[])[] {
  const sizes: (readonly number[])[] = [];
  const run = bench.devices.run.bind(bench.devices);
  bench.devices.run = (call: GraphCall) => {
    const [part] = call.inputs["latent_sample"] ?? [];
    if (part !== undefined && "tensor" in part) sizes.push(part.tensor.dims.slice(2));
    return run(call);
  };
  return sizes;
}

describe.each([
  ["flux-tiny", tiny, 40],
  ["a decoder of random weights", randomModel, 30],
])("%s", (_, folder, decibels) => {
  let whole: ImageBench;
  let tiled: ImageBench;
  let sizes: (readonly number[])[];

  beforeAll(async () => {
    whole = await ImageBench.open(folder);
    tiled = await ImageBench.open(folder, { decodeTile: TILE });
    sizes = watchDecoder(tiled);
  });
  afterAll(async () => {
    await whole.close();
    await tiled.close();
  });

  test.each([
    [128, 128, 9],
    [128, 64, 3],
    [80, 144, 8],
  ])("%i x %i in tiles is close to the whole decode, without an edge", async (width, height, n) => {
    const request = ask({ width, height });
    const [one] = await whole.images(request);
    sizes.length = 0;
    const [other] = await tiled.images(request);
    expect(sizes).toHaveLength(n);
    for (const size of sizes) expect(size).toEqual([8, 8]);
    expect(psnr(one!, other!)).toBeGreaterThan(decibels);
    for (let at = 16; at < width - 2; at += 4) {
      expect(edgeAt(other!, at) - edgeAt(one!, at)).toBeLessThan(2);
    }
  });

  test("a picture that is no larger than a tile has the same bytes as ever", async () => {
    const request = ask({ width: 64, height: 48 });
    sizes.length = 0;
    expect(await tiled.images(request)).toEqual(await whole.images(request));
    expect(sizes).toEqual([[6, 8]]);
  });

  test("the probe of previews is no larger than a tile either", async () => {
    const shown: unknown[] = [];
    const one = await ImageBench.open(folder, {
      decodeTile: TILE,
      onPreview: (_, preview) => shown.push(preview),
    });
    const given = watchDecoder(one);
    await one.images(ask({ previewCount: 2 }));
    await one.close();
    expect(given.length).toBeGreaterThan(9);
    for (const size of given) expect(size).toEqual([8, 8]);
    expect(shown).toHaveLength(2);
  });

  test("a tiled picture is the same bytes again, whoever else is here", async () => {
    const [alone] = await tiled.images(ask());
    const others = [1n, 2n].map((seed) => tiled.begin(ask({ seed, previewCount: 2 })));
    expect(await tiled.images(ask())).toEqual([alone]);
    for (const { end } of others) expect((await end).kind).toBe("finished");
  });
});
