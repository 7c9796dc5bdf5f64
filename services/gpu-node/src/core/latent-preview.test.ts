import { Random } from "@fluxline/kernel/random.ts";
import { describe, expect, test } from "vitest";
import type { LatentCells, Pixels } from "./image-model.ts";
import { LatentPreview, PREVIEW_PIXELS_MAX, probeCells } from "./latent-preview.ts";

const SEED = 20_261_123;
const CHANNELS = 5;
const SCALE = 4;
/** A decoder that is linear: colour = weights * latents + 0.5, the same for all pixels of a cell. */
const WEIGHTS = [
  [0.05, -0.02, 0.03, 0, 0.01],
  [-0.03, 0.04, 0, 0.02, 0.01],
  [0.01, 0.01, -0.05, 0.03, -0.02],
];

function decode({ channels, height, width, values }: LatentCells): Pixels {
  const rgb = new Uint8Array(height * width * SCALE * SCALE * 3);
  for (let y = 0; y < height * SCALE; y++) {
    for (let x = 0; x < width * SCALE; x++) {
      const cell = Math.floor(y / SCALE) * width + Math.floor(x / SCALE);
      WEIGHTS.forEach((row, colour) => {
        let level = 0.5;
        for (let c = 0; c < channels; c++) level += row[c]! * values[c * height * width + cell]!;
        rgb[(y * width * SCALE + x) * 3 + colour] = Math.round(255 * clamp(level));
      });
    }
  }
  return { width: width * SCALE, height: height * SCALE, rgb };
}

const clamp = (level: number): number => Math.min(1, Math.max(0, level));

function cells(height: number, width: number, value: () => number): LatentCells {
  const values = Float32Array.from({ length: CHANNELS * height * width }, value);
  return { channels: CHANNELS, height, width, values };
}

function randomCells(height: number, width: number, seed = SEED): LatentCells {
  const random = new Random(seed);
  return cells(height, width, () => random.float() * 2 - 1);
}

/** The largest difference between a preview and the first pixel of each cell, in 8-bit levels. */
function worst(preview: Pixels, picture: Pixels): number {
  let difference = 0;
  for (let y = 0; y < preview.height; y++) {
    for (let x = 0; x < preview.width * 3; x++) {
      const at = y * SCALE * picture.width * 3 + Math.floor(x / 3) * SCALE * 3 + (x % 3);
      const here = preview.rgb[y * preview.width * 3 + x]! - picture.rgb[at]!;
      difference = Math.max(difference, Math.abs(here));
    }
  }
  return difference;
}

function begun(): LatentPreview {
  const preview = new LatentPreview(CHANNELS);
  const probe = probeCells(CHANNELS);
  preview.begin(probe, decode(probe));
  return preview;
}

describe("a decoder that is linear", () => {
  test("is known from the probe alone", () => {
    const latents = randomCells(6, 9);
    const drawn = begun().draw(latents);
    expect([drawn.width, drawn.height]).toEqual([9, 6]);
    expect(worst(drawn, decode(latents))).toBeLessThanOrEqual(1);
  });

  test("stays known whatever pictures are learnt, before the probe and after it", () => {
    const preview = new LatentPreview(CHANNELS);
    const learn = (latents: LatentCells): void => preview.learn(latents, decode(latents));
    learn(randomCells(3, 5, SEED + 1));
    const probe = probeCells(CHANNELS);
    preview.begin(probe, decode(probe));
    for (let i = 2; i < 6; i++) learn(randomCells(40, 60, SEED + i));
    const latents = randomCells(7, 7);
    expect(worst(preview.draw(latents), decode(latents))).toBeLessThanOrEqual(1);
  });
});

test("pictures correct a probe that told something else", () => {
  const preview = new LatentPreview(CHANNELS);
  const probe = probeCells(CHANNELS);
  const { width, height, rgb } = decode(probe);
  preview.begin(probe, { width, height, rgb: rgb.map((level) => 255 - level) });
  const latents = randomCells(8, 8);
  const before = worst(preview.draw(latents), decode(latents));
  for (let i = 1; i <= 20; i++) {
    const picture = randomCells(16, 16, SEED + i);
    preview.learn(picture, decode(picture));
  }
  const after = worst(preview.draw(latents), decode(latents));
  expect(before).toBeGreaterThan(40);
  expect(after).toBeLessThan(before / 10);
});

describe("samples that do not decide the map", () => {
  const level = (preview: Pixels): number[] => [...new Set(preview.rgb)];

  test("a decoder that shows the same grey for everything gives that grey", () => {
    const preview = new LatentPreview(CHANNELS);
    const side = 32 * SCALE;
    const rgb = new Uint8Array(side * side * 3).fill(100);
    preview.begin(probeCells(CHANNELS), { width: side, height: side, rgb });
    expect(level(preview.draw(randomCells(4, 4)))).toEqual([100]);
  });

  test("pictures of one colour leave the other colours as they were", () => {
    const preview = begun();
    const flat = cells(8, 8, () => 0.5);
    for (let i = 0; i < 50; i++) preview.learn(flat, decode(flat));
    const latents = randomCells(6, 6);
    expect(worst(preview.draw(latents), decode(latents))).toBeLessThanOrEqual(1);
  });

  test("latents that are all zero give finite colours", () => {
    const preview = new LatentPreview(CHANNELS);
    const zero = cells(32, 32, () => 0);
    preview.begin(zero, decode(zero));
    preview.learn(zero, decode(zero));
    expect(level(preview.draw(zero))).toEqual([128]);
    expect(level(preview.draw(randomCells(4, 4)))).toEqual([128]);
  });
});

test("a picture of too many cells is shrunk by a whole factor, colours kept", () => {
  const one = new Random(SEED).float();
  const latents = cells(300, 500, () => one);
  const drawn = begun().draw(latents);
  expect([drawn.width, drawn.height]).toEqual([250, 150]);
  expect(drawn.width * drawn.height).toBeLessThanOrEqual(PREVIEW_PIXELS_MAX);
  const small = begun().draw(cells(1, 1, () => one));
  const differences = drawn.rgb.map((level, i) => Math.abs(level - small.rgb[i % 3]!));
  expect(Math.max(...differences)).toBeLessThanOrEqual(1);
});

test("what is no number is drawn black, not passed on", () => {
  const drawn = begun().draw(cells(2, 2, () => Number.NaN));
  expect(new Set(drawn.rgb)).toEqual(new Set([0]));
});
