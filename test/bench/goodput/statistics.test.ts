import { describe, expect, test } from "vitest";
import { estimate } from "./statistics.ts";

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
