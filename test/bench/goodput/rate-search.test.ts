import { describe, expect, test } from "vitest";
import { highestRate } from "./rate-search.ts";

const RANGE = { start: 1, lowest: 0.01, ratio: 1.01 };

describe("the highest rate", () => {
  test.each([0.0101, 0.3, 0.999, 1, 1.001, 7, 1234])("is found where it is %d", (limit) => {
    const found = highestRate((rate) => rate <= limit, RANGE);
    expect(found).toBeLessThanOrEqual(limit);
    expect(found * RANGE.ratio).toBeGreaterThanOrEqual(limit);
  });

  test("is 0 if nothing holds at the lowest", () => {
    expect(highestRate((rate) => rate < RANGE.lowest, RANGE)).toBe(0);
  });

  test("was tried and held", () => {
    const held = new Set<number>();
    const found = highestRate((rate) => {
      if (rate <= 3) held.add(rate);
      return rate <= 3;
    }, RANGE);
    expect(held.has(found)).toBe(true);
  });

  test("that has no end is refused", () => {
    expect(() => highestRate(() => true, RANGE)).toThrow("no end");
  });
});
