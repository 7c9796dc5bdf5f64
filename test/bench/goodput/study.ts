/**
 * What is compared on the simulated device: the batching gain swept with everything else fixed,
 * and then one thing changed at a time, so that a reader sees what the result hangs on.
 *
 * Costs are in proportion to the arithmetic of FLUX.1-dev: a step of 1024x1024 (4096 image and 512
 * text tokens) is 3.5 times one of 512x512, a text encoding a quarter of the latter, a decode a
 * sixth of its own size's step. The unit, 100 ms, decides nothing.
 */
import { type Mix, stepRange } from "./arrivals.ts";
import { type Effort, ROWS_MAX, type Scenario } from "./comparison.ts";
import type { DeviceCosts } from "./simulated-device.ts";

export const GAINS = [1, 1.15, 1.3, 1.5, 1.75, 2, 2.25, 2.5, 3];
/** Where one thing at a time is changed. */
export const VARIED_GAINS = [1, 1.3, 2];

export const EFFORT: Effort = {
  requests: 3_000,
  seeds: [1, 2, 3, 4, 5],
  trainingRequests: 1_500,
  trainingSeed: 1_000,
};

const [SMALL, LARGE] = ["512x512", "1024x1024"];

const MIXED: Mix = {
  name: "4 to 28 steps",
  sizes: [
    { size: SMALL, weight: 1 },
    { size: LARGE, weight: 1 },
  ],
  steps: stepRange(4, 28),
};

export function costsOf(gain: number): DeviceCosts {
  return {
    gain,
    encodeMs: 25,
    sizes: {
      [SMALL]: { stepMs: 100, decodeMs: 17 },
      [LARGE]: { stepMs: 350, decodeMs: 58 },
    },
  };
}

export function mainScenario(gain: number): Scenario {
  return {
    mix: MIXED,
    costs: costsOf(gain),
    objective: { kind: "absolute", factor: 4 },
    groupings: ["equal-steps", "longest"],
    lateLast: false,
    deadlinesTold: true,
    priorityClass: "standard",
  };
}

export interface Variation {
  readonly name: string;
  readonly change: Partial<Scenario>;
}

const absolute = (factor: number) => ({ objective: { kind: "absolute", factor } as const });
const mixed = (change: Partial<Mix>) => ({ mix: { ...MIXED, ...change } });

export const VARIATIONS: readonly Variation[] = [
  { name: "SLO 2 times the mean time alone", change: absolute(2) },
  { name: "SLO 3 times", change: absolute(3) },
  { name: "SLO 8 times", change: absolute(8) },
  {
    name: "SLO 4 times each request's own time alone",
    change: { objective: { kind: "relative", factor: 4 } },
  },
  {
    name: "the same, in class batch: as patient as its deadline",
    change: { objective: { kind: "relative", factor: 4 }, priorityClass: "batch" },
  },
  { name: "steps 4, 8, 20 or 28", change: mixed({ steps: [4, 8, 20, 28] }) },
  { name: "one size", change: mixed({ sizes: [{ size: LARGE, weight: 1 }] }) },
  {
    name: "one size and always 20 steps",
    change: mixed({ sizes: [{ size: LARGE, weight: 1 }], steps: [20] }),
  },
  {
    name: "nine small ones to a large one",
    change: mixed({
      sizes: [
        { size: SMALL, weight: 9 },
        { size: LARGE, weight: 1 },
      ],
    }),
  },
  { name: "step batching is told no deadlines", change: { deadlinesTold: false } },
  { name: "the others put late requests last", change: { lateLast: true } },
  { name: "request batching lets go who is done", change: { groupings: ["leaving"] } },
];

export function describeStudy(): string {
  const { requests, seeds } = EFFORT;
  return [
    `batches of at most ${ROWS_MAX}; ${seeds.length} streams of ${requests} requests,`,
    `95% intervals over them; request batching tuned on another stream`,
  ].join(" ");
}
