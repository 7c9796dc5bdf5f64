import { describe, expect, test } from "vitest";
import { chooseSize, isTriedSize, type SizeQuestion } from "./batch-size.ts";
import { ShapeCosts } from "./step-cost.ts";

const ask = (change: Partial<SizeQuestion> = {}): SizeQuestion => ({
  least: 1,
  most: 8,
  rowsHere: 8,
  stages: 1,
  ...change,
});

/** Runs what is chosen until nothing is tried any more; the sizes that were tried. */
function learn(costs: ShapeCosts, question: SizeQuestion, seconds: (rows: number) => number) {
  const tried: number[] = [];
  for (;;) {
    const { rows, isTrial } = chooseSize(costs, question);
    if (!isTrial) return tried;
    costs.tried(rows);
    costs.observe(rows, seconds(rows));
    tried.push(rows);
  }
}

function chosen(seconds: (rows: number) => number, change: Partial<SizeQuestion> = {}): number {
  const costs = new ShapeCosts();
  learn(costs, ask(), seconds);
  return chooseSize(costs, ask(change)).rows;
}

/** Twice the rows give `gain` times the rows per second. */
const gaining = (gain: number) => (rows: number) => rows / gain ** Math.log2(rows);

describe("the size", () => {
  test.each<[string, number, number]>([
    ["is one where a batch gains nothing", chosen(gaining(1)), 1],
    ["is one where it gains next to nothing", chosen(gaining(1.01)), 1],
    ["is one where it loses", chosen(gaining(0.9)), 1],
    ["is full where more always gains", chosen(gaining(1.5)), 8],
    ["is where the gain ends", chosen((rows) => (rows <= 4 ? 1 : rows)), 4],
    ["is what can be filled", chosen(gaining(1.5), { most: 3, rowsHere: 3 }), 3],
    [
      "keeps two stages busy rather than one with more",
      chosen(gaining(1.5), { stages: 2, most: 4, rowsHere: 4 }),
      2,
    ],
    [
      "fills batches once there are rows for every stage",
      chosen(gaining(1.5), { stages: 2, most: 8, rowsHere: 16 }),
      8,
    ],
  ])("%s", (_, rows, expected) => {
    expect(rows).toBe(expected);
  });
});

test("the size is never below the leader's own rows", () => {
  const costs = new ShapeCosts();
  expect(new Set(learn(costs, ask({ least: 2 }), gaining(1)))).toEqual(new Set([2, 3, 4, 8]));
  expect(chooseSize(costs, ask({ least: 2 })).rows).toBe(2);
});

describe("what is not measured", () => {
  test("is tried three times each, smallest first, and then no more", () => {
    const tried = learn(new ShapeCosts(), ask({ most: 3, rowsHere: 3 }), gaining(1.5));
    expect(tried).toEqual([1, 1, 1, 2, 2, 2, 3, 3, 3]);
  });

  test("is tried at powers of two only, where more than one row gains nothing", () => {
    const tried = learn(new ShapeCosts(), ask(), gaining(1));
    expect(new Set(tried)).toEqual(new Set([1, 2, 4, 8]));
  });

  test("is not tried while it would leave stages empty", () => {
    const tried = learn(new ShapeCosts(), ask({ stages: 4 }), gaining(2));
    expect(new Set(tried)).toEqual(new Set([1, 2]));
  });

  test("is tried no more often although its trials bring nothing", () => {
    const costs = new ShapeCosts();
    for (let i = 0; i < 3; i++) {
      expect(chooseSize(costs, ask({ most: 1 }))).toEqual({ rows: 1, isTrial: true });
      costs.tried(1);
    }
    expect(chooseSize(costs, ask({ most: 1 }))).toEqual({ rows: 1, isTrial: false });
  });

  test("is tried again when it was not used for long, and found to have become better", () => {
    const costs = new ShapeCosts();
    learn(costs, ask(), gaining(1));
    const sizes = new Map<number, number>();
    for (let run = 0; run < 4_000; run++) {
      const { rows, isTrial } = chooseSize(costs, ask());
      if (isTrial) costs.tried(rows);
      costs.observe(rows, gaining(2)(rows));
      sizes.set(rows, (sizes.get(rows) ?? 0) + 1);
    }
    expect(chooseSize(costs, ask()).rows).toBe(8);
    expect(sizes.get(8)).toBeGreaterThan(2_000);
  });
});

test("a size that failed is not formed again soon", () => {
  const costs = new ShapeCosts();
  learn(costs, ask(), gaining(2));
  costs.failed(8);
  expect(chooseSize(costs, ask())).toEqual({ rows: 4, isTrial: false });
});

test.each([
  [1, [1, 2, 4, 8, 16, 32, 64]],
  [4, [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64]],
  [32, [1, 2, 4, 8, 16, 20, 24, 28, 32, 40, 48, 56, 64]],
])("with %i rows the best so far, the sizes tried are %j", (best, expected) => {
  const sizes = Array.from({ length: 64 }, (_, i) => i + 1);
  expect(sizes.filter((rows) => isTriedSize(rows, best))).toEqual(expected);
});

describe("a limit of time", () => {
  const halves = (rows: number): number => rows ** 0.5;

  test.each<[string, number, number]>([
    ["keeps out what takes longer", chosen(halves, { secondsMax: 2.1 }), 4],
    ["leaves the leader by itself if it must", chosen(halves, { secondsMax: 0.5 }), 1],
    [
      "keeps out nothing that takes no longer than the leader alone",
      chosen(() => 1, { secondsMax: 0.5 }),
      8,
    ],
  ])("%s", (_, rows, expected) => expect(rows).toBe(expected));
});
