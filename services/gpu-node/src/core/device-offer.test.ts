import { describe, expect, test } from "vitest";
import { devicesText, parseDevices } from "./device-offer.ts";

const GIB = 2 ** 30;
const kinds = (text: string): string[] =>
  parseDevices(text, "cuda").devices.map(({ kind }) => kind);

test.each([
  ["24GiB", ["24 GiB"]],
  ["2x24GiB,1x80GiB", ["24 GiB", "24 GiB", "80 GiB"]],
  ["1xh100, 1xA100-80GB", ["H100", "A100-80GB"]],
  ["1x23.5gib", ["23.5 GiB"]],
])("%s is a list of devices", (text, expected) => {
  expect(kinds(text)).toEqual(expected);
  expect(parseDevices(text, "cuda").violations).toEqual([]);
});

test("a decimal gigabyte is not a binary one", () => {
  expect(parseDevices("24GB,24GiB", "cuda").devices.map(({ memoryBytes }) => memoryBytes)).toEqual([
    24e9,
    24 * GIB,
  ]);
});

test("published seconds give a speed, and only if all devices have one", () => {
  const [h100, l20] = parseDevices("H100,L20", "cuda").devices;
  expect(h100!.operationsPerSecond / l20!.operationsPerSecond).toBeCloseTo(26.4 / 4.3, 6);
  const mixed = parseDevices("H100,24GiB", "cuda").devices;
  expect(mixed.map(({ isSpeedKnown }) => isSpeedKnown)).toEqual([false, false]);
  expect(mixed[0]!.operationsPerSecond).toBe(mixed[1]!.operationsPerSecond);
});

test("the list that ranks are started with is read back", () => {
  const text = "2x24GiB,1xH100,1x24GiB";
  expect(devicesText(parseDevices(text, "cuda").devices)).toBe(text);
});

describe("what is wrong is named, part by part", () => {
  test.each([
    ["", 'has ""; use a memory with its unit, like 24GiB or 24GB, or one of H200, H100'],
    ["4x24", 'has "4x24"; use a memory with its unit'],
    ["2xA100", "or one of H200, H100, A100-80GB, A100-40GB, L20"],
    ["0x24GiB", 'has "0x24GiB"; use 1 or more'],
    ["65x1GiB", "has 65 devices; use at most 64"],
    ["60x1GiB,5x2GiB", "has 65 devices; use at most 64"],
    ["1x0GiB", "use a memory above 0"],
    ["1x99999GiB", "up to 4096GiB"],
  ])('"%s"', (text, expected) => {
    const { violations } = parseDevices(text, "cuda");
    expect(violations.map(({ description }) => description).join()).toContain(expected);
  });

  test("all at once", () => {
    expect(parseDevices("4x24,0xH100,8GiB", "cuda").violations).toHaveLength(2);
  });
});
