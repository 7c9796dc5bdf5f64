/**
 * A sample of the determinism matrix in which every axis has its turn, drawn anew for each run. The
 * whole is `npm run determinism`; docs/determinism.md says what each part shows.
 */
import { afterAll, expect, test } from "vitest";
import { testSeed } from "../support/seed.ts";
import { runCase } from "./case-run.ts";
import { GroupPool } from "./group-pool.ts";
import { facetsOf, sampleOf } from "./case-sample.ts";
import { matrixCases } from "./matrix-axes.ts";
import { MatrixModels } from "./models.ts";

const CASES_PER_MODEL = 4;
const RUNNERS_MAX = 12;

const seed = testSeed();

const models = await MatrixModels.open(seed);
const groups = new GroupPool(RUNNERS_MAX);
const all = models.all.flatMap((model) =>
  matrixCases(model.source).map((one) => {
    return { model, case: one, facets: facetsOf(one, model.source) };
  }),
);
const sample = new Set(sampleOf(all, seed, CASES_PER_MODEL));

afterAll(async () => {
  await groups.close();
  await models.close();
});

test("the sample shows every axis, the matrix every value", () => {
  const shown = (some: typeof all): string[] =>
    [...new Set(some.flatMap(({ facets }) => facets))].toSorted();
  expect(shown(all.filter((one) => sample.has(one.case)))).toEqual(shown(all));
  expect(shown(all)).toEqual(
    [
      ...["flux-tiny", "random", "odd"].map((model) => `model=${model}`),
      ...[1, 2, 3, 4, 5, 6, 7, 8].map((rows) => `rows=${rows}`),
      ...[1, 2, 3, 4].map((stages) => `stages=${stages}`),
      ...[0, 1, 2, 3, 4, 5].map((moves) => `moves=${moves}`),
      ...[1, 2].map((threads) => `threads=${threads}`),
      ...[0, 1, 2].map((shape) => `shape=${shape}`),
      "guidance=true",
      "images=several",
      "links=stage processes",
      "kill=alone",
      "kill=between moves",
    ].toSorted(),
  );
});

// By model, so that groups of the one are closed before those of the next are opened.
test.for(all.filter((one) => sample.has(one.case)))("$case.name", async (one) => {
  const { folder, reference } = one.model;
  const evidence = await runCase(one.case, { folder, reference, groups });
  const again = `npm run determinism -- --seed ${seed} --only ${one.case.name}`;
  expect(evidence.differences, again).toEqual([]);
  expect(evidence.latentsCompared).toBeGreaterThan(0);
  expect(evidence.picturesCompared).toBeGreaterThan(0);
});
