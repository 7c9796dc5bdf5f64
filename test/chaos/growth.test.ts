import { Random } from "@fluxline/kernel/random.ts";
import { expect, test } from "vitest";
import { growthOf, leakOf, type Sample } from "./growth.ts";

const MIB = 1024 * 1024;

/** An hour of samples: a heap that saws up and down by 40 MiB, and grows by `perHour`. */
function hour(perHour: number, files: (sample: number) => number = () => 30): Sample[] {
  const random = new Random(1);
  return Array.from({ length: 720 }, (_, i) => {
    const grown = perHour * (i / 720);
    return {
      atMs: i * 5_000,
      rssBytes: 120 * MIB + random.float() * 40 * MIB + grown,
      files: files(i),
    };
  });
}

test.each([
  ["a heap that only saws is no leak", hour(0), undefined],
  ["10 MiB an hour are the drift of a heap", hour(10 * MIB), undefined],
  ["64 MiB an hour are a leak", hour(64 * MIB), /memory grows by 6\d\.\d MiB an hour/],
  ["a file a minute is a leak", hour(0, (i) => 30 + Math.floor(i / 12)), /open files went from/],
])("%s", (_, samples, expected) => {
  const leak = leakOf(growthOf(samples));
  if (expected === undefined) expect(leak).toBeUndefined();
  else expect(leak).toMatch(expected);
});

test("too short a time has no slope", () => {
  expect(growthOf(hour(64 * MIB).slice(0, 60)).rssBytesPerHour).toBeUndefined();
});
