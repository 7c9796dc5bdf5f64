/**
 * Goodput in real time: flux-tiny on this CPU, the three policies on the same engine with a runner
 * each, of which one works at a time. The policies take turns, rate by rate, because the machine is
 * noisy. Request batching is tuned on the simulated device with the costs measured here; it has
 * the groupings that an engine without padding rows can run.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Driver } from "@fluxline/gpu-node/core/driver.ts";
import { ImageBench } from "../../support/image-bench.ts";
import { type Measurement, median } from "../measurement.ts";
import { type Arrival, arrivals, type Mix, mixMean, stepRange } from "./arrivals.ts";
import { ROWS_MAX, type Scenario, tuneRequestBatching } from "./comparison.ts";
import { searchRates } from "./rate-search.ts";
import { RequestBatching } from "./request-batching.ts";
import { NUDGE_ID, type ServingPolicy, type Waiting } from "./serving-policy.ts";
import { percentile } from "./statistics.ts";

const MODEL = fileURLToPath(new URL("../../../models/flux-tiny", import.meta.url));
const ROUNDS = 3;
const REQUESTS = 100;
const LATE_SHARE = 0.05;
const SEARCH_RATIO = 1.15;
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
  const rounds: Map<string, number>[] = [];
  for (let seed = 1; seed <= ROUNDS; seed++) {
    rounds.push(await oneRound(contenders, seed, meanMs));
    console.error(`  round ${seed}: ${JSON.stringify([...rounds.at(-1)!])}`);
  }
  for (const { bench } of contenders) await bench.close();
  return measurements(rounds, costs.gain, meanMs);
}

const oneByOne = { grouping: "equal-steps", batchMax: 1, waitMsMax: 0 } as const;

async function contender(name: string, policy: Contender["policy"]): Promise<Contender> {
  return { name, policy, bench: await ImageBench.open(MODEL, { decider: policy, limits: LIMITS }) };
}

/** One search for each, a rate at a time in turn. Requests per second within the objective. */
async function oneRound(
  contenders: readonly Contender[],
  seed: number,
  meanMs: number,
): Promise<Map<string, number>> {
  const stream = arrivals(MIX, REQUESTS, seed);
  const base = 1000 / meanMs;
  const range = { start: base / 2, lowest: base / 20, ratio: SEARCH_RATIO };
  const found = new Map<string, number>();
  const searches = contenders.map((each) => ({ each, search: searchRates(range) }));
  let open = searches.map(({ each, search }) => ({ each, search, turn: search.next() }));
  while (open.length > 0) {
    for (const one of open) {
      if (one.turn.done === true) continue;
      const held = await holds(one.each, stream, one.turn.value, SLO_FACTOR * meanMs);
      one.turn = one.search.next(held);
    }
    for (const { each, turn } of open) if (turn.done === true) found.set(each.name, turn.value);
    open = open.filter(({ turn }) => turn.done !== true);
  }
  return found;
}

/** Offers the stream at a rate; ends early once too many are late. */
async function holds(
  { bench, policy }: Contender,
  stream: readonly Arrival[],
  perSecond: number,
  sloMs: number,
): Promise<boolean> {
  const lateMax = Math.floor(LATE_SHARE * stream.length);
  const begunMs = performance.now();
  const latencies: number[] = [];
  const ends: Promise<void>[] = [];
  const isLost = (): boolean => latencies.filter((ms) => ms > sloMs).length > lateMax;
  for (const arrival of stream) {
    const dueMs = begunMs + (arrival.atGaps / perSecond) * 1000;
    await sleep(Math.max(0, dueMs - performance.now()));
    if (isLost()) break;
    ends.push(
      ask(bench, arrival, Date.now() + sloMs).then(() => {
        latencies.push(performance.now() - dueMs);
        nudge(bench, policy);
      }),
    );
    nudge(bench, policy);
  }
  await Promise.all(ends);
  return latencies.length === stream.length && percentile(latencies, 1 - LATE_SHARE) <= sloMs;
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

function measurements(
  rounds: readonly ReadonlyMap<string, number>[],
  gain: number,
  meanMs: number,
): Measurement[] {
  const note = `flux-tiny, ${ROUNDS} rounds of ${REQUESTS} requests, SLO ${SLO_FACTOR} x ${meanMs.toFixed(0)} ms`;
  const of = (name: string) => rounds.map((round) => round.get(name)!);
  const names = ["step batching", "request batching", "one by one"];
  const goodputs = names.map((name) => ({
    name: `goodput, real: ${name}`,
    value: median(of(name)),
    unit: "requests/s",
    note,
  }));
  const ratios = names.slice(1).map((other) => {
    const each = rounds.map((round) => round.get("step batching")! / round.get(other)!);
    const range = `${Math.min(...each).toFixed(2)} to ${Math.max(...each).toFixed(2)}`;
    return {
      name: `goodput, real: step batching over ${other}`,
      value: median(each),
      unit: "ratio",
      aim: { atLeast: gain >= 1.3 ? 1.5 : 1 },
      note: `median of the rounds, ${range}; ${note}`,
    };
  });
  const measured = { name: "batching gain of a step per doubling, measured", value: gain };
  return [
    { ...measured, unit: "ratio", note: `to ${ROWS_MAX} rows, flux-tiny` },
    ...goodputs,
    ...ratios,
  ];
}
