/**
 * Goodput on the simulated device, in virtual time: the table and the plot of docs/benchmarks.md.
 * Everything is drawn from seeds, so two runs give the same figures.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Table from "cli-table3";
import type { Measurement } from "../measurement.ts";
import { compare, type Comparison } from "./comparison.ts";
import { drawGoodput, type GainResult } from "./plot.ts";
import type { Estimate } from "./statistics.ts";
import { describeStudy, EFFORT, GAINS, mainScenario, VARIATIONS, VARIED_GAINS } from "./study.ts";

interface StudyRow extends GainResult {
  readonly name: string;
}

const MAIN = "as described";
/** Where the aim begins. */
const AIM_GAIN = 1.3;
const AIM_RATIO = 1.5;

export async function goodputSimulated(root: string): Promise<Measurement[]> {
  const rows: StudyRow[] = [];
  for (const gain of GAINS) {
    rows.push({ name: MAIN, gain, comparison: compare(mainScenario(gain), EFFORT) });
    await turn();
  }
  const swept = [...rows];
  for (const { name, change } of VARIATIONS) {
    for (const gain of VARIED_GAINS) {
      const scenario = { ...mainScenario(gain), ...change };
      rows.push({ name, gain, comparison: compare(scenario, EFFORT) });
      await turn();
    }
  }
  console.log(studyTable(rows));
  mkdirSync(join(root, "out"), { recursive: true });
  const json = { study: describeStudy(), effort: EFFORT, rows };
  writeFileSync(join(root, "out/bench-goodput.json"), `${JSON.stringify(json, undefined, 2)}\n`);
  await drawGoodput(swept, join(root, "docs/goodput"));
  return measurements(swept);
}

/** Lets the time limit of the benchmark have its say. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function measurements(swept: readonly GainResult[]): Measurement[] {
  const lowest = (from: number, of: (comparison: Comparison) => Estimate | undefined) => {
    const ratios = swept
      .filter(({ gain }) => gain >= from)
      .map(({ gain, comparison }) => ({ gain, ratio: of(comparison)?.mean ?? Number.NaN }));
    return ratios.reduce((least, one) => (one.ratio < least.ratio ? one : least));
  };
  const others = {
    "request batching": ({ overRequestBatching }: Comparison) => overRequestBatching,
    "one by one": ({ overOneByOne }: Comparison) => overOneByOne,
  };
  return Object.entries(others).flatMap(([other, of]) =>
    [
      { from: AIM_GAIN, atLeast: AIM_RATIO },
      { from: GAINS[0]!, atLeast: 1 },
    ].map(({ from, atLeast }) => {
      const { gain, ratio } = lowest(from, of);
      return {
        name: `goodput, simulated: step batching over ${other}, lowest from gain ${from} on`,
        value: ratio,
        unit: "ratio",
        aim: { atLeast },
        note: `at gain ${gain}; ${describeStudy()}`,
      };
    }),
  );
}

function studyTable(rows: readonly StudyRow[]): string {
  const table = new Table({
    head: [
      "what",
      "gain",
      "step",
      "request",
      "one by one",
      "/ request",
      "/ one by one",
      "tuned to",
    ],
    style: { head: [], border: [] },
  });
  for (const { name, gain, comparison } of rows) {
    const { tuned, stepBatching, requestBatching, oneByOne } = comparison;
    const { grouping, batchMax, waitMsMax } = tuned;
    const wait = `wait ${(waitMsMax / 1000).toFixed(1)} s`;
    table.push([
      name,
      gain,
      ...[stepBatching, requestBatching, oneByOne].map(text),
      ...[comparison.overRequestBatching, comparison.overOneByOne].map(text),
      batchMax === 1 ? "one by one" : `${grouping}, ${batchMax}, ${wait}`,
    ]);
  }
  return table.toString();
}

function text(found: Estimate | undefined): string {
  return found === undefined ? "-" : `${found.mean.toFixed(2)} ± ${found.margin.toFixed(2)}`;
}
