import { describe, expect, test } from "vitest";
import { StepCostTable } from "./step-cost.ts";

function seconds(table: StepCostTable, rows = 1): number | undefined {
  return table.all()[0]?.batches.find((batch) => batch.rows === rows)?.seconds;
}

describe("the cost of a size", () => {
  test("does not count the first run, which sets things up", () => {
    const table = new StepCostTable();
    table.observe("a", 1, 60);
    expect(table.all()).toEqual([]);
    table.observe("a", 1, 2);
    expect(table.all()).toEqual([
      { shapeKey: "a", batches: [{ rows: 1, seconds: 2, samples: 1 }] },
    ]);
  });

  test("is the fastest of the first few samples: a busy machine only makes steps slower", () => {
    const table = new StepCostTable();
    for (const taken of [60, 3, 9, 2]) table.observe("a", 1, taken);
    expect(seconds(table)).toBe(2);
  });

  test("follows the device, and is moved little by one run that took far too long", () => {
    const table = new StepCostTable();
    for (let i = 0; i < 10; i++) table.observe("a", 1, 1);
    table.observe("a", 1, 1_000);
    expect(seconds(table)).toBeLessThan(1.2);
    for (let i = 0; i < 200; i++) table.observe("a", 1, 5);
    expect(seconds(table)).toBeCloseTo(5, 3);
  });

  test("moves by half when the size was not run for long", () => {
    const table = new StepCostTable();
    for (let i = 0; i < 10; i++) table.observe("a", 2, 4);
    for (let i = 0; i < 200; i++) table.observe("a", 1, 1);
    table.observe("a", 2, 2);
    expect(seconds(table, 2)).toBe(3);
  });

  test("is kept for each size by itself", () => {
    const table = new StepCostTable();
    for (let i = 0; i < 2; i++) {
      table.observe("a", 4, 3);
      table.observe("a", 1, 1);
    }
    expect(table.all()[0]?.batches.map(({ rows, seconds }) => [rows, seconds])).toEqual([
      [1, 1],
      [4, 3],
    ]);
  });
});

describe("the cost of one row", () => {
  test("is that of a batch of one, else its part of the smallest batch, else unknown", () => {
    const table = new StepCostTable();
    expect(table.rowSeconds("a")).toBeUndefined();
    expect(table.chargeSeconds("a")).toBeGreaterThan(0);
    for (let i = 0; i < 2; i++) table.observe("a", 8, 6);
    for (let i = 0; i < 2; i++) table.observe("a", 4, 4);
    expect(table.rowSeconds("a")).toBe(1);
    for (let i = 0; i < 2; i++) table.observe("a", 1, 1.5);
    expect(table.rowSeconds("a")).toBe(1.5);
    expect(table.chargeSeconds("a")).toBe(1.5);
  });
});

test("a size that failed halves what is tried, for longer each time", () => {
  const costs = new StepCostTable().shape("a");
  const runsUntilFree = (): number => {
    for (let runs = 0; ; runs++) {
      if (costs.rowsMax === Infinity) return runs;
      expect(costs.rowsMax).toBe(4);
      costs.observe(1, 1);
    }
  };
  costs.failed(8);
  const first = runsUntilFree();
  expect(first).toBeGreaterThan(100);
  costs.failed(8);
  expect(runsUntilFree()).toBe(2 * first);
});

test("a larger batch that fails after a smaller one lifts no limit", () => {
  const costs = new StepCostTable().shape("a");
  costs.failed(4);
  costs.failed(8);
  expect(costs.rowsMax).toBe(2);
});

test("a new shape is charged as the one measured last: to be new is no advantage", () => {
  const table = new StepCostTable();
  expect(table.chargeSeconds("new")).toBeLessThan(0.01);
  for (let i = 0; i < 2; i++) table.observe("a", 1, 2);
  table.observe("newer", 1, 5);
  expect(table.chargeSeconds("newer")).toBe(2);
});

test("the shapes seen least recently are forgotten first", () => {
  const table = new StepCostTable();
  for (let i = 0; i < 300; i++) {
    for (const shape of ["always", `shape ${i}`]) {
      table.observe(shape, 1, 1);
      table.observe(shape, 1, 1);
    }
  }
  const keys = table.all().map((cost) => cost.shapeKey);
  expect(keys).toHaveLength(256);
  expect(keys).toContain("always");
  expect(keys).not.toContain("shape 0");
});
