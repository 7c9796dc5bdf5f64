import { describe, expect, test } from "vitest";
import { arrivals, mixMean, stepRange } from "./arrivals.ts";

const MIX = {
  name: "two sizes",
  sizes: [
    { size: "small", weight: 3 },
    { size: "large", weight: 1 },
  ],
  steps: stepRange(4, 28),
};
const COUNT = 20_000;

describe("a stream of requests", () => {
  const stream = arrivals(MIX, COUNT, 7);

  test("is the same for the same seed and another for another", () => {
    expect(arrivals(MIX, COUNT, 7)).toEqual(stream);
    expect(arrivals(MIX, COUNT, 8)).not.toEqual(stream);
  });

  test("begins like a longer one of its seed", () => {
    expect(arrivals(MIX, 50, 7)).toEqual(stream.slice(0, 50));
  });

  test("has exponential gaps of mean 1: as many above the median ln 2 as below", () => {
    const gaps = stream.map(({ atGaps }, index) => atGaps - (stream[index - 1]?.atGaps ?? 0));
    expect(gaps.every((gap) => gap >= 0)).toBe(true);
    expect(stream.at(-1)!.atGaps / COUNT).toBeCloseTo(1, 1);
    const long = gaps.filter((gap) => gap > Math.LN2).length;
    expect(long / COUNT).toBeCloseTo(0.5, 1);
    const variance = gaps.reduce((sum, gap) => sum + (gap - 1) ** 2, 0) / COUNT;
    expect(variance).toBeCloseTo(1, 0);
  });

  test("asks for sizes by weight and for every number of steps alike", () => {
    const large = stream.filter(({ size }) => size === "large").length;
    expect(large / COUNT).toBeCloseTo(0.25, 1);
    const counts = new Map<number, number>();
    for (const { steps } of stream) counts.set(steps, (counts.get(steps) ?? 0) + 1);
    expect([...counts.keys()].toSorted((a, b) => a - b)).toEqual(MIX.steps);
    const [least, most] = [Math.min(...counts.values()), Math.max(...counts.values())];
    expect(least).toBeGreaterThan((COUNT / 25) * 0.85);
    expect(most).toBeLessThan((COUNT / 25) * 1.15);
  });
});

test("the mean of a mix weighs its sizes", () => {
  expect(mixMean(MIX, (size, steps) => (size === "small" ? steps : 0))).toBe(12);
});
