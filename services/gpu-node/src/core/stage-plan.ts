/**
 * Which rank of a replica group does what. The denoiser's blocks are cut into contiguous stages,
 * one per rank, so that the slowest is as fast as it can be; the other networks (text encoders,
 * decoder) are placed on a rank each, or on the CPU beside rank 0.
 *
 *   blocks  | 0 1 2 | 3 4 5 | 6 7 8 |     cuts 3,6
 *   rank        0       1       2
 *
 * Every rank of a group computes its plan by itself, from the model and its own command line; the
 * plan's digest, compared when two ranks meet, keeps ranks of two plans apart. A plan changes who
 * computes, never what, on the CPU in float32; elsewhere its cuts are part of the numerics class.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { type FieldViolation, invalidArgument } from "@fluxline/kernel/error.ts";
import type { DevicePlan } from "./step-batcher.ts";

/** Blocks counted from the first of the denoiser: `first` up to but not including `end`. */
export interface BlockRange {
  readonly first: number;
  readonly end: number;
}

/** A network beside the denoiser. */
export interface ComponentLayout {
  /** As people call it: clip, t5, vae. */
  readonly name: string;
  readonly graph: string;
  readonly use: "encode" | "decode";
}

/** What a planner must know of a model; a family gives it from the geometry alone. */
export interface ModelLayout {
  /** Work of each block of the denoiser at a usual size, in order; any unit. */
  readonly blockCosts: readonly number[];
  readonly components: readonly ComponentLayout[];
}

/** A rank, or a runner of its own on rank 0's CPU. */
export type Place = number | "cpu";

export interface PlanRequest {
  readonly stages: number;
  /** First blocks of stages 1 to the last; chosen by cost when absent. */
  readonly cuts?: readonly number[] | undefined;
  /** By component name; the others are placed where they are placed by default. */
  readonly places?: ReadonlyMap<string, Place> | undefined;
  /** Components by name that are loaded for each use and let go after it. */
  readonly sequential?: ReadonlySet<string> | undefined;
  /** Pixels along a side of the tiles in which larger pictures are decoded; 0: never in tiles. */
  readonly decodeTile?: number | undefined;
}

export interface StagePlan {
  readonly stages: readonly BlockRange[];
  /** Work of each stage over the work of all. */
  readonly shares: readonly number[];
  /** Place of each component, by its name. */
  readonly places: ReadonlyMap<string, Place>;
  /** The others stay loaded. */
  readonly sequential: ReadonlySet<string>;
  /** 0: pictures are decoded whole. */
  readonly decodeTile: number;
}

/** What ranks that work together must agree on, besides the plan. */
export interface PlanFacts {
  readonly modelDigest: string;
  readonly runType: string;
  readonly recipe: string;
}

/**
 * @throws AppError INVALID_PLAN naming every option that does not fit the model
 */
export function planStages(layout: ModelLayout, request: PlanRequest): StagePlan {
  const violations = [
    ...stageViolations(layout, request),
    ...placeViolations(layout, request),
    ...sequentialViolations(layout, request),
  ];
  if (violations.length > 0) throw invalidArgument(violations, "INVALID_PLAN");
  const cuts = request.cuts ?? balancedCuts(layout.blockCosts, request.stages);
  const firsts = [0, ...cuts];
  const stages = firsts.map((first, rank) => {
    return { first, end: firsts[rank + 1] ?? layout.blockCosts.length };
  });
  const whole = total(layout.blockCosts);
  return {
    stages,
    shares: stages.map(({ first, end }) => total(layout.blockCosts.slice(first, end)) / whole),
    places: new Map(
      layout.components.map((component) => [component.name, placeOf(component, request)]),
    ),
    sequential: request.sequential ?? new Set(),
    decodeTile: request.decodeTile ?? 0,
  };
}

/** One line, readable in a refusal and comparable as a string. */
export function planDigest(plan: StagePlan, facts: PlanFacts): string {
  const cuts = plan.stages.slice(1).map(({ first }) => first);
  const places = [...plan.places].map(([name, place]) => `${name}:${place}`);
  return [
    `model=${facts.modelDigest.slice(0, 16)}`,
    `type=${facts.runType}`,
    `recipe=${facts.recipe}`,
    `stages=${plan.stages.length}`,
    `cuts=${cuts.join(",")}`,
    `places=${places.join(",")}`,
    ...(plan.sequential.size === 0 ? [] : [`sequential=${[...plan.sequential].toSorted().join()}`]),
    ...(plan.decodeTile === 0 ? [] : [`tile=${plan.decodeTile}`]),
  ].join(" ");
}

/** Devices by index: 0 to S-1 are the stages, S is the CPU beside them. */
export function deviceMap(layout: ModelLayout, plan: StagePlan): DevicePlan {
  const used = (use: ComponentLayout["use"]): number[] => {
    const places = layout.components
      .filter((component) => component.use === use)
      .map(({ name }) => plan.places.get(name)!);
    const indexes = places.map((place) => (place === "cpu" ? plan.stages.length : place));
    return [...new Set(indexes)].toSorted((a, b) => a - b);
  };
  return { step: [...plan.stages.keys()], encode: used("encode"), decode: used("decode") };
}

/** Components at a place, in the order of the layout. */
export function componentsAt(
  layout: ModelLayout,
  plan: StagePlan,
  place: Place,
): readonly ComponentLayout[] {
  return layout.components.filter(({ name }) => plan.places.get(name) === place);
}

/** Graphs that are loaded for each use and let go after it. */
export function sequentialGraphs(layout: ModelLayout, plan: StagePlan): ReadonlySet<string> {
  const components = layout.components.filter(({ name }) => plan.sequential.has(name));
  return new Set(components.map(({ graph }) => graph));
}

/**
 * First blocks of stages 1 .. S-1 of the partition whose costliest stage is the cheapest; among
 * equals the one whose stages are the most even. Exact: `best[i]` is the best way to spread the
 * first i blocks over the stages so far.
 */
function balancedCuts(costs: readonly number[], stages: number): number[] {
  const sums = [0];
  for (const cost of costs) sums.push(sums.at(-1)! + cost);
  let best: (Partition | undefined)[] = sums.map((sum, end) =>
    end === 0 ? undefined : { slowest: sum, squares: sum ** 2, cuts: [] },
  );
  for (let stage = 1; stage < stages; stage++) {
    best = sums.map((sum, end) => {
      let found: Partition | undefined;
      for (let cut = stage; cut < end; cut++) {
        const before = best[cut];
        if (before === undefined) continue;
        const cost = sum - sums[cut]!;
        const slowest = Math.max(before.slowest, cost);
        const squares = before.squares + cost ** 2;
        const candidate = { slowest, squares, cuts: [...before.cuts, cut] };
        if (found === undefined || isBetter(candidate, found)) found = candidate;
      }
      return found;
    });
  }
  const found = best.at(-1);
  assert(found !== undefined, `${costs.length} blocks for ${stages} stages`);
  return found.cuts;
}

interface Partition {
  readonly slowest: number;
  readonly squares: number;
  readonly cuts: number[];
}

function isBetter(a: Partition, b: Partition): boolean {
  return a.slowest < b.slowest || (a.slowest === b.slowest && a.squares < b.squares);
}

/** Text is encoded where steps begin, pictures are decoded where they end. */
function placeOf({ name, use }: ComponentLayout, { stages, places }: PlanRequest): Place {
  return places?.get(name) ?? (use === "encode" ? 0 : stages - 1);
}

function stageViolations(
  { blockCosts }: ModelLayout,
  { stages, cuts }: PlanRequest,
): FieldViolation[] {
  const blocks = blockCosts.length;
  if (stages < 1 || stages > blocks) {
    const rule = `the model has ${blocks} blocks, and a stage holds at least one`;
    return [{ field: "--stages", description: `is ${stages}; ${rule}: use 1 to ${blocks}` }];
  }
  if (cuts === undefined) return [];
  const shown = cuts.join(",");
  if (cuts.length !== stages - 1) {
    const description = `is ${shown}: ${cuts.length} cuts; ${stages} stages have ${stages - 1}`;
    return [{ field: "--cuts", description }];
  }
  const rises = cuts.every((cut, i) => cut > (cuts[i - 1] ?? 0) && cut < blocks);
  if (rises) return [];
  const rule = `use rising first blocks between 1 and ${blocks - 1}`;
  return [{ field: "--cuts", description: `is ${shown}; ${rule}` }];
}

function placeViolations(
  { components }: ModelLayout,
  { stages, places }: PlanRequest,
): FieldViolation[] {
  const known = components.map(({ name }) => name);
  return [...(places ?? [])].flatMap(([name, place]): FieldViolation[] => {
    if (!known.includes(name)) {
      const description = `names ${name}; use ${known.join(", ")}`;
      return [{ field: "--place", description }];
    }
    if (place === "cpu" || (place >= 0 && place < stages)) return [];
    const rule = `use a rank from 0 to ${stages - 1}, or cpu`;
    return [{ field: "--place", description: `puts ${name} on ${place}; ${rule}` }];
  });
}

function sequentialViolations(
  { components }: ModelLayout,
  { sequential }: PlanRequest,
): FieldViolation[] {
  const known = components.map(({ name }) => name);
  return [...(sequential ?? [])].flatMap((name): FieldViolation[] => {
    if (known.includes(name)) return [];
    return [{ field: "--sequential", description: `names ${name}; use ${known.join(", ")}` }];
  });
}

function total(costs: readonly number[]): number {
  return costs.reduce((sum, cost) => sum + cost, 0);
}
