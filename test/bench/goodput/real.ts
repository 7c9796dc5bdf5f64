/**
 * Goodput in real time: flux-tiny on this CPU, the three policies on the same engine with a runner
 * each, of which one works at a time. The machine is noisy, and a search over rates would end where
 * somebody else was busy: so every policy serves every rate of a ladder in every round, in turn, and
 * the shares of requests in time are pooled over the rounds. Request batching is tuned on the simulated device with the costs measured here; it has
 * the groupings that an engine without padding rows can run.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Driver } from "@fluxline/gpu-node/core/driver.ts";
import { ImageBench } from "../../support/image-bench.ts";
import { type Measurement, median } from "../measurement.ts";
import { type Arrival, arrivals, type Mix, mixMean, stepRange } from "./arrivals.ts";
import { ROWS_MAX, type Scenario, tuneRequestBatching } from "./comparison.ts";
import { RequestBatching } from "./request-batching.ts";
import { NUDGE_ID, type ServingPolicy, type Waiting } from "./serving-policy.ts";

const MODEL = fileURLToPath(new URL("../../../models/flux-tiny", import.meta.url));
const ROUNDS = 4;
/** Of one round at one rate. */
const REQUESTS = 60;
/** Rates, as shares of what the runner serves one by one without idling. */
const LADDER = [0.3, 0.45, 0.6, 0.75, 0.9, 1.05];
const IN_TIME = 0.95;
/** More than in the simulation: other work on the machine makes some requests late. */
const SLO_FACTOR = 8;
const LIMITS = {
  rowsMax: ROWS_MAX,
  residentsMax: 1024,
  batching: "measured",
  stepsInFlightMax: 1,
  devices: { step: [0], encode: [0], decode: [0] },
} as const;

const MIX: Mix = {
  name: "flux-tiny",
  sizes: [
    { size: "64x64", weight: 1 },
    { size: "96x96", weight: 1 },
  ],
  // Half of the simulated mix, so that a round takes minutes.
  steps: stepRange(2, 14),
};

interface Contender {
  readonly name: string;
  readonly policy: ServingPolicy & Partial<Waiting>;
  readonly bench: ImageBench;
}

interface Trial {
  readonly contender: Contender;
  readonly perSecond: number;
  /** Requests within the objective, by round. */
  readonly inTime: number[];
}

/** Requests so far: each has a text of its own, so that none is encoded already. */
let asked = 0;

export async function goodputReal(): Promise<Measurement[]> {
  const step = await contender("step batching", new Driver(LIMITS));
  const one = await contender("one by one", new RequestBatching(oneByOne));
  const costs = await measureCosts(step, one);
  const alone = (size: string, steps: number): number =>
    costs.encodeMs + costs.sizes[size]!.decodeMs + steps * costs.sizes[size]!.stepMs;
  const meanMs = mixMean(MIX, alone);
  const tuned = tuneRequestBatching(scenarioOf(costs), {
    requests: 0,
    seeds: [],
    trainingRequests: 1_500,
    trainingSeed: 1_000,
  });
  const request = await contender("request batching", new RequestBatching(tuned));
  const contenders = [step, request, one];
  console.error(
    `  costs: ${JSON.stringify(costs)}; request batching tuned: ${JSON.stringify(tuned)}`,
  );
  const base = 1000 / meanMs;
  const trials = LADDER.flatMap((share) =>
    contenders.map((each): Trial => ({ contender: each, perSecond: share * base, inTime: [] })),
  );
  for (let seed = 1; seed <= ROUNDS; seed++) await oneRound(trials, seed, meanMs);
  for (const { bench } of contenders) await bench.close();
  for (const { contender: each, perSecond, inTime } of trials) {
    console.error(`  ${each.name} at ${perSecond.toFixed(1)}/s: in time ${inTime.join(", ")}`);
  }
  return measurements(trials, costs.gain, meanMs);
}

const oneByOne = { grouping: "equal-steps", batchMax: 1, waitMsMax: 0 } as const;

async function contender(name: string, policy: Contender["policy"]): Promise<Contender> {
  return { name, policy, bench: await ImageBench.open(MODEL, { decider: policy, limits: LIMITS }) };
}

/** Every rate for every policy, in turn; counts who was in time. */
async function oneRound(trials: readonly Trial[], seed: number, meanMs: number): Promise<void> {
  const stream = arrivals(MIX, REQUESTS, seed);
  for (const { contender: each, perSecond, inTime } of trials) {
    inTime.push(await serve(each, stream, perSecond, SLO_FACTOR * meanMs));
  }
}

/** Offers the stream at a rate; how many ended within the objective. */
async function serve(
  { bench, policy }: Contender,
  stream: readonly Arrival[],
  perSecond: number,
  sloMs: number,
): Promise<number> {
  const begunMs = performance.now();
  let inTime = 0;
  const ends: Promise<void>[] = [];
  for (const arrival of stream) {
    const dueMs = begunMs + (arrival.atGaps / perSecond) * 1000;
    await sleep(Math.max(0, dueMs - performance.now()));
    ends.push(
      ask(bench, arrival, Date.now() + sloMs).then(() => {
        if (performance.now() - dueMs <= sloMs) inTime += 1;
        nudge(bench, policy);
      }),
    );
    nudge(bench, policy);
  }
  await Promise.all(ends);
  return inTime;
}

/** Where the share in time falls below the objective: between two rates of the ladder, by line. */
function goodputOf(trials: readonly Trial[]): number {
  let good = { perSecond: 0, share: 1 };
  for (const { perSecond, inTime } of trials) {
    const share = inTime.reduce((sum, count) => sum + count, 0) / (REQUESTS * inTime.length);
    if (share < IN_TIME) {
      const part = (good.share - IN_TIME) / (good.share - share);
      return good.perSecond + part * (perSecond - good.perSecond);
    }
    good = { perSecond, share };
  }
  return good.perSecond;
}

async function ask(
  bench: ImageBench,
  { size, steps }: Pick<Arrival, "size" | "steps">,
  deadlineMs?: number,
): Promise<void> {
  const [width, height] = size.split("x").map(Number);
  const prompt = `a red circle, number ${asked++}`;
  const { end } = bench.begin({ prompt, width: width!, height: height!, steps }, undefined, {
    deadlineMs,
  });
  const { kind } = await end;
  if (kind !== "finished") throw new Error(`a request was ${kind}`);
}

/** Wakes a policy that waits for mates when it is due. */
function nudge(bench: ImageBench, { wakeMs }: Contender["policy"]): void {
  if (wakeMs === undefined) return;
  const wake = (): void => bench.engine.fence(NUDGE_ID);
  setTimeout(wake, Math.max(0, wakeMs - Date.now())).unref();
}

async function measureCosts(step: Contender, one: Contender): Promise<Scenario["costs"]> {
  const sizes: Record<string, { stepMs: number; decodeMs: number }> = {};
  let aroundMs = 0;
  const gains: number[] = [];
  for (const { size } of MIX.sizes) {
    // Bursts fill batches of every size, so that the driver learns what they cost.
    for (let burst = 0; burst < 4; burst++) {
      await Promise.all(
        Array.from({ length: 2 * ROWS_MAX }, () => ask(step.bench, { size, steps: 16 })),
      );
    }
    const few = await fastestMs(() => ask(one.bench, { size, steps: 4 }));
    const many = await fastestMs(() => ask(one.bench, { size, steps: 28 }));
    const stepMs = (many - few) / 24;
    aroundMs = Math.max(0, few - 4 * stepMs);
    sizes[size] = { stepMs, decodeMs: aroundMs / 2 };
  }
  for (const { batches } of step.bench.engine.stepCosts.all()) {
    const seconds = new Map(batches.map((batch) => [batch.rows, batch.seconds]));
    const [single, full] = [seconds.get(1), seconds.get(ROWS_MAX)];
    if (single === undefined || full === undefined) continue;
    gains.push(((ROWS_MAX * single) / full) ** (1 / Math.log2(ROWS_MAX)));
  }
  return { gain: median(gains), encodeMs: aroundMs / 2, sizes };
}

async function fastestMs(work: () => Promise<void>): Promise<number> {
  const times: number[] = [];
  for (let time = 0; time < 15; time++) {
    const begunMs = performance.now();
    await work();
    times.push(performance.now() - begunMs);
  }
  return Math.min(...times); // a busy machine only makes them slower
}

function scenarioOf(costs: Scenario["costs"]): Scenario {
  return {
    mix: MIX,
    costs,
    objective: { kind: "absolute", factor: SLO_FACTOR },
    groupings: ["equal-steps", "leaving"],
    lateLast: false,
    deadlinesTold: true,
    priorityClass: "standard",
  };
}

function measurements(trials: readonly Trial[], gain: number, meanMs: number): Measurement[] {
  const sloMs = (SLO_FACTOR * meanMs).toFixed(0);
  const note = `flux-tiny, ${ROUNDS} rounds of ${REQUESTS} requests a rate, SLO ${sloMs} ms`;
  const of = (name: string) =>
    goodputOf(trials.filter(({ contender: { name: own } }) => own === name));
  const names = ["step batching", "request batching", "one by one"];
  const goodputs = names.map((name) => ({
    name: `goodput, real: ${name}`,
    value: of(name),
    unit: "requests/s",
    note,
  }));
  const ratios = names.slice(1).map((other) => ({
    name: `goodput, real: step batching over ${other}`,
    value: of("step batching") / of(other),
    unit: "ratio",
    aim: { atLeast: gain >= 1.3 ? 1.5 : 1 },
    note,
  }));
  const name = "batching gain of a step per doubling, measured";
  const gained = { name, value: gain, unit: "ratio", note: `up to ${ROWS_MAX} rows, flux-tiny` };
  return [gained, ...goodputs, ...ratios];
}
