import { expect, test } from "vitest";
import { blockOperations, stepOperations } from "./flux-cost.ts";

const fluxDev = {
  doubleBlocks: 19,
  singleBlocks: 38,
  heads: 24,
  headWidth: 128,
  width: 3072,
  inChannels: 64,
  outChannels: 64,
  textWidth: 4096,
  pooledWidth: 768,
  guidance: true,
  axesDims: [16, 56, 56],
};

test("FLUX.1-dev at 1024x1024 takes about 74 trillion operations a step", () => {
  expect(stepOperations(fluxDev, 4096, 512) / 1e12).toBeCloseTo(74.4, 0);
});

test("half the side is less than a quarter of the image work", () => {
  const whole = stepOperations(fluxDev, 4096, 0);
  expect(stepOperations(fluxDev, 1024, 0)).toBeLessThan(whole / 4);
});

test("blocks cost about the same; the first has the embedders, the last the prediction", () => {
  const blocks = blockOperations(fluxDev, 4096, 512);
  expect(blocks).toHaveLength(57);
  expect(blocks[30]! / blocks[1]!).toBeCloseTo(1, 2);
  expect(blocks[0]!).toBeGreaterThan(blocks[1]!);
  expect(blocks[56]!).toBeGreaterThan(blocks[55]!);
});
