import { describe, expect, test } from "vitest";
import { estimate, percentile } from "./statistics.ts";

describe("a percentile", () => {
  const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);

  test("is the smallest value that so many do not exceed", () => {
    expect(percentile(hundred, 0.95)).toBe(95);
    expect(percentile(hundred, 0.951)).toBe(96);
    expect(percentile(hundred, 1)).toBe(100);
    expect(percentile([3], 0.95)).toBe(3);
    expect(percentile([1, 2], 0.5)).toBe(1);
  });

  test("leaves the values as they were", () => {
    const values = [3, 1, 2];
    percentile(values, 0.5);
    expect(values).toEqual([3, 1, 2]);
  });

  test("of nothing is refused", () => {
    expect(() => percentile([], 0.95)).toThrow("no values");
    expect(() => percentile([1], 0)).toThrow("0");
  });
});

describe("an estimate", () => {
  test("has the margin of Student's t", () => {
    // 1, 2, 3: standard deviation 1, standard error 1 / sqrt(3), t(2) = 4.303
    const { mean, margin } = estimate([1, 2, 3]);
    expect(mean).toBe(2);
    expect(margin).toBeCloseTo(4.303 / Math.sqrt(3), 6);
  });

  test("of equal values has none, nor has that of one", () => {
    expect(estimate([4, 4, 4, 4])).toEqual({ mean: 4, margin: 0 });
    expect(estimate([4])).toEqual({ mean: 4, margin: 0 });
  });
});
