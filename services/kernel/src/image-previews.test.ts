import { describe, expect, test } from "vitest";
import { PREVIEW_COUNT_MAX, previewsPossible, previewSteps } from "./image-previews.ts";

describe("the steps of previews", () => {
  test.each([
    ["none", 0, 20, []],
    ["one in the middle", 1, 20, [10]],
    ["three at the quarters", 3, 28, [7, 14, 21]],
    ["rounded to the next boundary", 2, 5, [2, 3]],
    ["all but the last", 3, 4, [1, 2, 3]],
    ["of a picture of one step", 0, 1, []],
  ])("%s", (_, count, steps, expected) => {
    expect(previewSteps(count, steps)).toEqual(expected);
  });

  test("ascend without a repeat between the first boundary and the last but one", () => {
    for (let steps = 1; steps <= 200; steps++) {
      for (let asked = 0; asked <= PREVIEW_COUNT_MAX; asked++) {
        const count = previewsPossible(asked, steps);
        const found = previewSteps(count, steps);
        expect(found).toHaveLength(Math.min(asked, steps - 1));
        found.forEach((step, i) => expect(step).toBeGreaterThan(found[i - 1] ?? 0));
        expect(found.at(-1) ?? 0).toBeLessThan(steps);
      }
    }
  });
});
