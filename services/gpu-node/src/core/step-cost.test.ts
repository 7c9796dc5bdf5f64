import { expect, test } from "vitest";
import { StepCostTable } from "./step-cost.ts";

test("the first measurements are averaged evenly, later ones slowly", () => {
  const table = new StepCostTable();
  table.observe("a", 1, 1);
  table.observe("a", 1, 3);
  expect(table.all()).toEqual([{ shapeKey: "a", seconds: 2, samples: 2 }]);
  for (let i = 0; i < 200; i++) table.observe("a", 1, 5);
  expect(table.all()[0]?.seconds).toBeCloseTo(5, 3);
});

test("a batch of several rows says nothing about one alone", () => {
  const table = new StepCostTable();
  table.observe("a", 2, 1);
  expect(table.all()).toEqual([]);
});

test("the shapes seen least recently are forgotten first", () => {
  const table = new StepCostTable();
  for (let i = 0; i < 300; i++) {
    table.observe("always", 1, 1);
    table.observe(`shape ${i}`, 1, 1);
  }
  const keys = table.all().map((cost) => cost.shapeKey);
  expect(keys).toHaveLength(256);
  expect(keys).toContain("always");
  expect(keys).not.toContain("shape 0");
});
