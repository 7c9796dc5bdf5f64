import type { ImageRequest } from "@fluxline/kernel/image-request.ts";
import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { generationText, type PictureOrigin, withPngText } from "./png-text.ts";

const REQUEST: ImageRequest = {
  prompt: "a red circle,\non blue",
  prompt2: "a red circle,\non blue",
  negativePrompt: undefined,
  negativePrompt2: undefined,
  trueCfgScale: 1,
  width: 64,
  height: 96,
  steps: 20,
  guidance: 3.5,
  seed: 2n ** 64n - 1n,
  maxSequenceLength: 128,
  imageCount: 1,
  previewCount: 3,
};
const ORIGIN: PictureOrigin = {
  modelName: "flux-tiny",
  modelDigest: "0123456789abcdef",
  index: 0,
  simulated: false,
};

function png(): Promise<Buffer> {
  const create = { width: 4, height: 3, channels: 3, background: "#804020" } as const;
  return sharp({ create }).png().toBuffer();
}

/** Read by libpng. */
async function textOf(file: Uint8Array): Promise<Record<string, string>> {
  const { comments = [] } = await sharp(file).metadata();
  return Object.fromEntries(comments.map(({ keyword, text }) => [keyword, text]));
}

describe("withPngText", () => {
  const contents: Record<string, string> = {
    "plain text": "a red circle",
    "several lines": "one\ntwo\n",
    "Latin-1": "un café à Zürich",
    "other scripts and emoji": "一只狐狸 🦊 Ω",
    "tabs and carriage returns": "a\tb\r\nc",
    nothing: "",
  };
  for (const [name, content] of Object.entries(contents)) {
    test(`carries ${name} and leaves the picture as it was`, async () => {
      const plain = await png();
      const file = withPngText(plain, new Map([["parameters", content]]));
      expect((await textOf(file))["parameters"]).toBe(content);
      expect(await sharp(file).raw().toBuffer()).toEqual(await sharp(plain).raw().toBuffer());
    });
  }

  test("carries several chunks", async () => {
    const text = new Map([
      ["parameters", "a"],
      ["fluxline", "字"],
    ]);
    expect(await textOf(withPngText(await png(), text))).toEqual({
      parameters: "a",
      fluxline: "字",
    });
  });

  test("refuses what is no PNG file", () => {
    expect(() => withPngText(new Uint8Array(100), new Map())).toThrow("PNG");
  });
});

describe("generationText", () => {
  test("is the line format of other programs", () => {
    expect(generationText(REQUEST, ORIGIN).get("parameters")).toBe(
      "a red circle,\non blue\n" +
        "Steps: 20, Sampler: Euler, CFG scale: 1, Distilled CFG Scale: 3.5, " +
        "Seed: 18446744073709551615, Size: 64x96, Model hash: 0123456789, Model: flux-tiny, " +
        "Version: fluxline",
    );
  });

  test("names a negative prompt, the image of several, and a simulation", () => {
    const request = { ...REQUEST, negativePrompt: "blurry", trueCfgScale: 4, imageCount: 3 };
    const origin = { ...ORIGIN, index: 1, simulated: true };
    expect(generationText(request, origin).get("parameters")).toBe(
      "a red circle,\non blue\nNegative prompt: blurry\n" +
        "Steps: 20, Sampler: Euler, CFG scale: 4, Distilled CFG Scale: 3.5, " +
        "Seed: 18446744073709551615, Size: 64x96, Model hash: 0123456789, Model: flux-tiny, " +
        "Image: 2 of 3, Simulated: true, Version: fluxline",
    );
  });

  test("is the request as JSON, enough to repeat it", () => {
    const request = { ...REQUEST, prompt2: "blue", negativePrompt: "", negativePrompt2: "x" };
    const json = generationText(request, ORIGIN).get("fluxline") ?? "";
    expect(JSON.parse(json)).toEqual({
      prompt: "a red circle,\non blue",
      prompt_2: "blue",
      negative_prompt: "",
      negative_prompt_2: "x",
      true_cfg_scale: 1,
      width: 64,
      height: 96,
      num_inference_steps: 20,
      guidance_scale: 3.5,
      seed: "18446744073709551615",
      max_sequence_length: 128,
      image_count: 1,
      image_index: 0,
      model: "flux-tiny",
      model_digest: "0123456789abcdef",
    });
  });
});
