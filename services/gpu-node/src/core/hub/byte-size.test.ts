import { describe, expect, test } from "vitest";
import { byteSizeText, parseByteSize } from "./byte-size.ts";

describe("a size", () => {
  test.each<[string, number | undefined]>([
    ["0", 0],
    ["1024", 1024],
    ["200GiB", 200 * 2 ** 30],
    ["200 gib", 200 * 2 ** 30],
    ["1.5G", 1.5 * 2 ** 30],
    ["3GB", 3e9],
    ["2TiB", 2 * 2 ** 40],
    ["7B", 7],
    ["-1", undefined],
    ["GiB", undefined],
    ["1 parsec", undefined],
    ["", undefined],
    ["9999999999999TiB", undefined],
  ])("%s", (text, bytes) => {
    expect(parseByteSize(text)).toBe(bytes);
  });

  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.0 KiB"],
    [24 * 2 ** 30, "24.0 GiB"],
  ])("%d is shown as %s", (bytes, text) => {
    expect(byteSizeText(bytes)).toBe(text);
  });
});
