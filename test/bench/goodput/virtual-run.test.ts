import { describe, expect, test } from "vitest";
import { Driver } from "@fluxline/gpu-node/core/driver.ts";
import { arrivals, type Arrival, stepRange } from "./arrivals.ts";
import { RequestBatching } from "./request-batching.ts";
import type { ServingPolicy } from "./serving-policy.ts";
import { aloneMs, stepMs } from "./simulated-device.ts";
import { runVirtually, type VirtualRun } from "./virtual-run.ts";

const COSTS = { gain: 1.5, encodeMs: 5, sizes: { small: { stepMs: 10, decodeMs: 3 } } };
const oneByOne = (): ServingPolicy =>
  new RequestBatching({ grouping: "equal-steps", batchMax: 1, waitMsMax: 0 });

const stepBatching = (residentsMax: number): ServingPolicy =>
  new Driver({
    rowsMax: 4,
    residentsMax,
    batching: "measured",
    stepsInFlightMax: 1,
    devices: { step: [0], encode: [0], decode: [0] },
  });

function asked(...requests: readonly [atGaps: number, steps: number][]): Arrival[] {
  return requests.map(([atGaps, steps], index) => {
    return { id: `r${index}`, atGaps, size: "small", steps };
  });
}

function run(change: Partial<VirtualRun>): ReturnType<typeof runVirtually> {
  return runVirtually({
    policy: oneByOne(),
    arrivals: asked([0, 2]),
    rate: 1,
    costs: COSTS,
    sloMs: () => 1_000,
    deadlinesTold: true,
    priorityClass: "standard",
    lateMax: 0,
    ...change,
  });
}

const latencies = ({ ended }: ReturnType<typeof run>) => ended.map(({ latencyMs }) => latencyMs);

describe("the simulated device", () => {
  test("does `gain` times the work with a batch twice as large", () => {
    for (const rows of [1, 2, 4]) {
      const single = rows / stepMs(COSTS, "small", rows);
      expect((2 * rows) / stepMs(COSTS, "small", 2 * rows)).toBeCloseTo(1.5 * single, 9);
    }
  });

  test("takes as long for a request alone as its parts", () => {
    expect(latencies(run({}))).toEqual([5 + 2 * 10 + 3]);
    expect(aloneMs(COSTS, "small", 2)).toBe(28);
  });

  test("does one thing after another", () => {
    // r1 comes at 1 ms, waits until 28 ms, and takes 18 ms.
    const outcome = run({ arrivals: asked([0, 2], [1, 1]) });
    expect(latencies(outcome)).toEqual([28, 28 + 18 - 1]);
    expect(outcome.busyMs).toBe(28 + 18);
  });
});

test("a rate says how fast the same stream comes", () => {
  const stream = asked([0, 2], [20, 1]);
  expect(latencies(run({ arrivals: stream }))).toEqual([28, 28 + 18 - 20]);
  expect(latencies(run({ arrivals: stream, rate: 0.5 }))).toEqual([28, 18]);
});

test("a run ends once more are late than may be", () => {
  const stream = asked([0, 2], [0, 2], [0, 2], [0, 2]);
  const late = run({ arrivals: stream, sloMs: () => 30 });
  expect(late).toMatchObject({ held: false, late: 1 });
  expect(late.ended).toHaveLength(2);
  const allowed = run({ arrivals: stream, sloMs: () => 30, lateMax: 3 });
  expect(allowed).toMatchObject({ held: true, late: 3 });
  expect(run({ arrivals: stream, sloMs: () => 30, lateMax: 2 }).held).toBe(false);
});

describe("the real driver in virtual time", () => {
  const mix = { name: "mix", sizes: [{ size: "small", weight: 1 }], steps: stepRange(4, 28) };

  test("ends every request, whatever it admits at a time", () => {
    for (const residentsMax of [1, 8]) {
      const stream = arrivals(mix, 200, 11);
      const policy = stepBatching(residentsMax);
      const outcome = run({ policy, arrivals: stream, rate: 0.01, lateMax: 200 });
      const ids = outcome.ended.map(({ arrival }) => arrival.id).toSorted();
      expect(ids).toEqual(stream.map(({ id }) => id).toSorted());
      const steps = stream.reduce((sum, arrival) => sum + arrival.steps, 0);
      expect(outcome.stepRows).toBe(steps);
      expect(policy.residents()).toEqual([]);
    }
  });

  test("gives the same figures each time", () => {
    const once = () =>
      run({ policy: stepBatching(8), arrivals: arrivals(mix, 200, 12), rate: 0.02, lateMax: 200 });
    expect(once()).toEqual(once());
  });
});
