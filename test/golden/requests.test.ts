/** Whole requests: text, latents and pictures are those of diffusers' FluxPipeline. */
import { readFile } from "node:fs/promises";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  LATENTS_TOLERANCE,
  NETWORK_TOLERANCE,
  PIXEL_LEVELS_TOLERANCE,
  PIXELS_OFF_TOLERANCE,
  relativeError,
  tensorError,
} from "./comparison.ts";
import { dataPath, floats, manifest, tensor, type RequestCase } from "./golden-data.ts";
import { type Generated, generate, type GoldenModel, openModel, toRequest } from "./request-run.ts";

const TEXTS = {
  prompt_embeds: ["positive", "encoder_hidden_states"],
  pooled_prompt_embeds: ["positive", "pooled_projections"],
  negative_prompt_embeds: ["negative", "encoder_hidden_states"],
  negative_pooled_prompt_embeds: ["negative", "pooled_projections"],
} as const;

const names = [...new Set(manifest.requests.map(({ checkpoint }) => checkpoint))];

describe.for(names)("%s", (checkpoint) => {
  let opened: GoldenModel;
  beforeAll(async () => {
    opened = await openModel(checkpoint);
  });
  afterAll(() => opened.close());

  const cases = manifest.requests.filter((golden) => golden.checkpoint === checkpoint);

  test.for(cases)("$name", async (golden) => {
    const generated = await generate(opened, toRequest(opened.model, golden.arguments));
    compareTexts(generated, golden);
    const latents = generated.latents.flatMap((values) => [...values]);
    const error = relativeError(latents, floats(golden.file, golden.outputs["latents"]!));
    expect(error, "latents").toBeLessThanOrEqual(LATENTS_TOLERANCE);
    expect(generated.pixels.length).toBe(golden.pictures.length);
    for (const [index, path] of golden.pictures.entries()) {
      await comparePicture(generated, index, path);
    }
  });
});

function compareTexts({ texts }: Generated, golden: RequestCase): void {
  for (const [name, [pass, input]] of Object.entries(TEXTS)) {
    const stored = golden.outputs[name];
    if (stored === undefined) continue; // long texts are not stored, and one pass has no negative
    const value = texts[pass]?.[input];
    expect(value, name).toBeDefined();
    const error = tensorError(value!, tensor(golden.file, stored));
    expect(error, name).toBeLessThanOrEqual(NETWORK_TOLERANCE);
  }
}

async function comparePicture({ pixels }: Generated, index: number, path: string): Promise<void> {
  const { data, info } = await sharp(await readFile(dataPath(path)))
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const { rgb, width, height } = pixels[index]!;
  expect([width, height, 3], path).toEqual([info.width, info.height, info.channels]);
  expect(rgb.length).toBe(data.length);
  const differences = rgb.map((value, i) => Math.abs(value - data[i]!));
  const off = differences.filter((difference) => difference > 0).length;
  expect(Math.max(...differences), path).toBeLessThanOrEqual(PIXEL_LEVELS_TOLERANCE);
  expect(off, path).toBeLessThanOrEqual(Math.ceil(data.length * PIXELS_OFF_TOLERANCE));
}
