import { describe, expect, test } from "vitest";
import {
  isWhole,
  manifestText,
  parseManifest,
  type WeightManifest,
  withRanges,
} from "./weight-manifest.ts";

const file = { path: "vae/x.safetensors", size: 100, commit: "c".repeat(40) };
const manifest: WeightManifest = {
  ...file,
  etag: "e",
  sha256: undefined,
  ranges: [
    [0, 8],
    [20, 30],
  ],
  verified: false,
};

test("what was written is read again", () => {
  expect(parseManifest(manifestText(manifest), file)).toEqual(manifest);
});

describe("nothing is there according to", () => {
  const text = manifestText(manifest);
  test.each([
    ["a text that was cut short", text.slice(0, -20), file],
    ["an empty text", "", file],
    ["a manifest of another commit", text, { ...file, commit: "d".repeat(40) }],
    ["a manifest of another size", text, { ...file, size: 101 }],
    ["a manifest of another path", text, { ...file, path: "y" }],
    ["a range that reaches beyond the file", text.replace("30", "300"), file],
    ["a range that runs backwards", text.replace("20", "40"), file],
    ["a version to come", text.replace('"version":1', '"version":2'), file],
  ])("%s", (_, said, of) => {
    expect(parseManifest(said, of)).toBeUndefined();
  });
});

test("it is whole when every byte is there, and not before", () => {
  const almost = withRanges(manifest, [
    [8, 20],
    [30, 99],
  ]);
  expect(isWhole(almost)).toBe(false);
  expect(isWhole(withRanges(almost, [[99, 100]]))).toBe(true);
});
