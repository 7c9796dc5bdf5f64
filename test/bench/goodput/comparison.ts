/**
 * Goodput of each policy on the simulated device: the highest rate of arrivals at which 95% of
 * the requests end within the latency objective. Every policy gets the same streams. Request
 * batching is tuned for each device and objective, on a stream that is not used again: it gets the
 * best of the grid, in which one by one is a choice too.
 */
import type { PriorityClass } from "@fluxline/kernel/priority-class.ts";
import { Driver } from "@fluxline/gpu-node/core/driver.ts";
import { type Arrival, arrivals, type Mix, mixMean } from "./arrivals.ts";
import { highestRate } from "./rate-search.ts";
import { type Grouping, RequestBatching, type RequestBatchLimits } from "./request-batching.ts";
import type { ServingPolicy } from "./serving-policy.ts";
import { aloneMs, type DeviceCosts } from "./simulated-device.ts";
import { type Estimate, estimate } from "./statistics.ts";
import { runVirtually } from "./virtual-run.ts";

/** The largest batch of any policy: what the device's memory would hold. */
export const ROWS_MAX = 8;
const RESIDENTS_MAX = 64;
const LATE_SHARE = 0.05;
const SEARCH_RATIO = 1.01;
/** Rates are looked for from this share of what the device serves one by one. */
const LOWEST_SHARE = 0.02;
/** Waits of request batching that are tried, as shares of the mean time alone. */
const WAIT_SHARES = [0, 0.25, 0.5, 1];

export type Objective =
  /** One latency for all: so many times the mean time that a request takes alone. */
  | { readonly kind: "absolute"; readonly factor: number }
  /** Each within so many times its own time alone. */
  | { readonly kind: "relative"; readonly factor: number };

export interface Scenario {
  readonly mix: Mix;
  readonly costs: DeviceCosts;
  readonly objective: Objective;
  /** How request batching may treat different steps. */
  readonly groupings: readonly Grouping[];
  /** Request batching and one by one put what is late behind what is not. */
  readonly lateLast: boolean;
  /** Step batching is told when each request must end. */
  readonly deadlinesTold: boolean;
  readonly priorityClass: PriorityClass;
}

export interface Effort {
  readonly requests: number;
  readonly seeds: readonly number[];
  readonly trainingRequests: number;
  readonly trainingSeed: number;
}

export interface Comparison {
  /** Requests per second over what the device serves one by one without ever idling. */
  readonly oneByOne: Estimate;
  readonly requestBatching: Estimate;
  readonly stepBatching: Estimate;
  /** Ratios are taken stream by stream; undefined where the other one serves nothing. */
  readonly overOneByOne: Estimate | undefined;
  readonly overRequestBatching: Estimate | undefined;
  readonly tuned: Pick<RequestBatchLimits, "grouping" | "batchMax" | "waitMsMax">;
}

export function compare(scenario: Scenario, effort: Effort): Comparison {
  const tuned = tuneRequestBatching(scenario, effort);
  const policies = {
    oneByOne: requestPolicy(scenario, ONE_BY_ONE),
    requestBatching: requestPolicy(scenario, tuned),
    stepBatching: stepBatching,
  };
  const goodputs = effort.seeds.map((seed) => {
    const stream = arrivals(scenario.mix, effort.requests, seed);
    const of = (policy: () => ServingPolicy): number =>
      goodput(scenario, stream, policy) / aloneRate(scenario);
    return {
      oneByOne: of(policies.oneByOne),
      requestBatching: of(policies.requestBatching),
      stepBatching: of(policies.stepBatching),
    };
  });
  const column = (name: keyof typeof policies) => goodputs.map((row) => row[name]);
  const over = (name: keyof typeof policies): Estimate | undefined => {
    if (column(name).some((value) => value === 0)) return undefined;
    return estimate(goodputs.map((row) => row.stepBatching / row[name]));
  };
  return {
    oneByOne: estimate(column("oneByOne")),
    requestBatching: estimate(column("requestBatching")),
    stepBatching: estimate(column("stepBatching")),
    overOneByOne: over("oneByOne"),
    overRequestBatching: over("requestBatching"),
    tuned,
  };
}

/** Requests per second that the device serves one by one, if it never idles. */
export function aloneRate({ mix, costs }: Pick<Scenario, "mix" | "costs">): number {
  return 1000 / mixMean(mix, (size, steps) => aloneMs(costs, size, steps));
}

export function sloMs({ mix, costs, objective }: Scenario): (arrival: Arrival) => number {
  const { kind, factor } = objective;
  if (kind === "relative") return ({ size, steps }) => factor * aloneMs(costs, size, steps);
  const mean = 1000 / aloneRate({ mix, costs });
  return () => factor * mean;
}

/** Requests per second. */
export function goodput(
  scenario: Scenario,
  stream: readonly Arrival[],
  policy: () => ServingPolicy,
): number {
  const { costs, deadlinesTold, priorityClass } = scenario;
  const base = aloneRate(scenario);
  const shared = {
    arrivals: stream,
    costs,
    deadlinesTold,
    priorityClass,
    sloMs: sloMs(scenario),
    lateMax: Math.floor(LATE_SHARE * stream.length),
  };
  const holds = (perSecond: number): boolean =>
    runVirtually({ ...shared, policy: policy(), rate: perSecond / 1000 }).held;
  return highestRate(holds, { start: base / 2, lowest: base * LOWEST_SHARE, ratio: SEARCH_RATIO });
}

export function stepBatching(): ServingPolicy {
  return new Driver({
    rowsMax: ROWS_MAX,
    residentsMax: RESIDENTS_MAX,
    batching: "measured",
    stepsInFlightMax: 1,
    devices: { step: [0], encode: [0], decode: [0] },
  });
}

const ONE_BY_ONE = { grouping: "equal-steps", batchMax: 1, waitMsMax: 0 } as const;

export function requestPolicy(
  { costs, lateLast }: Scenario,
  limits: RequestBatchLimits,
): () => ServingPolicy {
  if (!lateLast) return () => new RequestBatching(limits);
  const alone = {
    lateLast: ({ shapeKey, steps }: { shapeKey: string; steps: number }) =>
      aloneMs(costs, shapeKey, steps),
  };
  return () => new RequestBatching({ ...limits, ...alone });
}

/** The best of the grid on the training stream. */
export function tuneRequestBatching(scenario: Scenario, effort: Effort): RequestBatchLimits {
  const stream = arrivals(scenario.mix, effort.trainingRequests, effort.trainingSeed);
  const meanMs = 1000 / aloneRate(scenario);
  const grid = scenario.groupings.flatMap((grouping) =>
    batchSizes().flatMap((batchMax) =>
      WAIT_SHARES.map((share) => ({ grouping, batchMax, waitMsMax: share * meanMs })),
    ),
  );
  let best: RequestBatchLimits = ONE_BY_ONE;
  let most = 0;
  for (const limits of [ONE_BY_ONE, ...grid]) {
    const found = goodput(scenario, stream, requestPolicy(scenario, limits));
    if (found > most) [best, most] = [limits, found];
  }
  return best;
}

function batchSizes(): number[] {
  const sizes: number[] = [];
  for (let size = 2; size <= ROWS_MAX; size *= 2) sizes.push(size);
  return sizes;
}
