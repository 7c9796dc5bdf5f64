import { Random } from "@fluxline/kernel/random.ts";
import { describe, expect, test } from "vitest";
import { byteCount, byteSet, closeGaps, covers, difference, pieces, union } from "./byte-ranges.ts";
import type { ByteRange } from "./byte-ranges.ts";

describe("a set of bytes", () => {
  test.each<[string, ByteRange[], ByteRange[]]>([
    [
      "is sorted",
      [
        [5, 6],
        [1, 2],
      ],
      [
        [1, 2],
        [5, 6],
      ],
    ],
    [
      "joins what touches",
      [
        [1, 3],
        [3, 4],
      ],
      [[1, 4]],
    ],
    [
      "joins what overlaps",
      [
        [1, 5],
        [2, 3],
        [4, 8],
      ],
      [[1, 8]],
    ],
    ["drops what is empty", [[4, 4]], []],
  ])("%s", (_, ranges, expected) => {
    expect(byteSet(ranges)).toEqual(expected);
  });
});

describe("closing gaps", () => {
  test.each<[string, ByteRange[], ByteRange[], ByteRange[]]>([
    [
      "a small one is fetched along",
      [
        [0, 4],
        [6, 8],
      ],
      [],
      [[0, 8]],
    ],
    [
      "a large one is not",
      [
        [0, 4],
        [8, 9],
      ],
      [],
      [
        [0, 4],
        [8, 9],
      ],
    ],
    [
      "one that is there already is not fetched again",
      [
        [0, 4],
        [6, 8],
      ],
      [[4, 6]],
      [
        [0, 4],
        [6, 8],
      ],
    ],
    [
      "one that is there in part neither",
      [
        [0, 4],
        [6, 8],
      ],
      [[5, 6]],
      [
        [0, 4],
        [6, 8],
      ],
    ],
  ])("%s", (_, missing, present, expected) => {
    expect(closeGaps(missing, present, 3)).toEqual(expected);
  });
});

test("pieces are at most so large, and together the whole", () => {
  expect(
    pieces(
      [
        [0, 7],
        [10, 12],
      ],
      3,
    ),
  ).toEqual([
    [0, 3],
    [3, 6],
    [6, 7],
    [10, 12],
  ]);
});

test("random sets agree with arrays of flags", () => {
  const seed = Date.now() % 1_000_000;
  const random = new Random(seed);
  const size = 40;
  const draw = (): ByteRange[] =>
    Array.from({ length: random.below(8) }, () => {
      const begin = random.below(size);
      return [begin, begin + random.below(size - begin + 1)];
    });
  const flags = (ranges: readonly ByteRange[]): boolean[] =>
    Array.from({ length: size }, (_, at) => ranges.some(([b, e]) => b <= at && at < e));
  for (let round = 0; round < 500; round++) {
    const [a, b] = [byteSet(draw()), byteSet(draw())];
    const [fa, fb] = [flags(a), flags(b)];
    const note = `seed ${seed}, round ${round}: ${JSON.stringify({ a, b })}`;
    expect(flags(union(a, b)), note).toEqual(fa.map((x, i) => x || fb[i]!));
    expect(flags(difference(a, b)), note).toEqual(fa.map((x, i) => x && !fb[i]!));
    expect(byteCount(a), note).toBe(fa.filter(Boolean).length);
    expect(covers(a, b), note).toBe(fb.every((x, i) => !x || fa[i]!));
    const closed = closeGaps(difference(a, b), b, 3);
    expect(difference(closed, b), note).toEqual(closed);
    expect(byteSet(pieces(a, 3)), note).toEqual(a);
  }
});
