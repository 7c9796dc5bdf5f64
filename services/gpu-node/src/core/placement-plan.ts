/**
 * Which device takes which blocks and which components, exactly: the slowest resource is as fast as
 * it can be, and among all such plans the resources are the most evenly used. Resources are the
 * devices, the links between neighbours, and the processor beside rank 0.
 *
 *   device   operations of its blocks / its speed, + (operations of its components / its speed
 *            + loading of those that are loaded for each use) / steps                per step
 *   link     bytes of one row at the cut / its rate
 *   memory   runtime + weights + rows x working memory of a step + working memory of components
 *
 * Dynamic programming over (devices used of each kind, blocks done, components placed). Devices of
 * one kind are interchangeable, so it does not matter which of them is used. It is done twice: a
 * plan that is best by both criteria at every prefix need not exist, so the best bottleneck is found
 * first, and then the least sum of squared seconds among plans that keep to it; both are exact.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError } from "@fluxline/kernel/error.ts";
import type { ModelSizes } from "./model-sizes.ts";
import type { Placement, PlacementProblem, PlacementResult } from "./placement.ts";
import { PlacementTable } from "./placement-table.ts";

/** What a table of states may hold; three kinds of 20 devices for FLUX.1 stay below it. */
const STATES_MAX = 6_000_000;

/**
 * What costs a person least comes first: pictures decoded whole on the devices; then in tiles, which
 * costs a part of a second; then components on the processor beside rank 0, which costs many: those
 * that cost the fewest.
 */
export function planPreferred(problem: PlacementProblem): PlacementResult {
  const onDevices = { ...problem, hostOperationsPerSecond: undefined };
  const whole = planPlacement({ ...onDevices, tiles: [] });
  if (whole.fits) return whole;
  let result = planPlacement(onDevices);
  if (problem.hostOperationsPerSecond === undefined) return result;
  for (const hostMay of hostSubsets(problem)) {
    if (result.fits) return result;
    result = planPlacement({ ...problem, hostMay });
  }
  return result;
}

/** Names of some of the components, those with the least work first, all of them last. */
function hostSubsets({ sizes: { components } }: PlacementProblem): string[][] {
  let subsets: ModelSizes["components"][] = [[]];
  for (const component of components) {
    subsets = subsets.flatMap((subset) => [subset, [...subset, component]]);
  }
  const work = (subset: ModelSizes["components"]): number => {
    return subset.reduce((sum, { operations }) => sum + operations, 0);
  };
  const ordered = subsets.slice(1).toSorted((a, b) => work(a) - work(b));
  return ordered.map((subset) => subset.map(({ name }) => name));
}

/** @throws AppError INVALID_PLAN if there are more devices than blocks, or too many kinds of them */
export function planPlacement(problem: PlacementProblem): PlacementResult {
  checkSize(problem);
  const tables = tileChoices(problem).map((tile) => new PlacementTable(problem, tile));
  // Small tiles need the least: what does not fit with them does not fit at all.
  const leanest = tables.reduce((a, b) => (b.decodedPixels < a.decodedPixels ? b : a));
  const least = leanest.leastShortfall();
  if (least === undefined) throw impossibleChoices();
  if (least.bytes > 0) {
    return { fits: false, placement: least.placement(), shortfallBytes: least.bytes };
  }
  let limit = Number.POSITIVE_INFINITY;
  for (const table of tables) limit = Math.min(limit, table.leastBottleneck(limit));
  let best: Placement | undefined;
  for (const table of tables) {
    const found = table.mostEven(limit);
    const better = best === undefined || (found?.squares ?? Infinity) < best.squares;
    if (found !== undefined && better) best = found;
  }
  assert(best !== undefined, "no plan keeps to the bottleneck that was found");
  return { fits: true, placement: best };
}

function impossibleChoices(): AppError {
  return new AppError("invalid_argument", "no plan has the cuts and places that were given", {
    reason: "INVALID_PLAN",
  });
}

/** Whole pictures first: of two equal plans the first is taken. */
function tileChoices({ tiles, demand, fixed }: PlacementProblem): readonly number[] {
  if (fixed?.decodeTile !== undefined) return [fixed.decodeTile];
  return [0, ...tiles.filter((tile) => tile > 0 && tile ** 2 < demand.pixels)];
}

function checkSize({ devices, sizes, order }: PlacementProblem): void {
  const blocks = sizes.blocks.length;
  if (devices.length < 1 || devices.length > blocks) {
    const rule = `the model has ${blocks} blocks, and each device takes at least one`;
    const description = `has ${devices.length} devices; ${rule}: use 1 to ${blocks}`;
    throw invalidDevices(description);
  }
  if (order === "given") return;
  const kinds = new Map<string, number>();
  for (const { kind } of devices) kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  const used = [...kinds.values()].reduce((product, count) => product * (count + 1), 1);
  const states = used * (blocks + 1) * 2 ** sizes.components.length;
  if (states <= STATES_MAX) return;
  throw invalidDevices(`has ${kinds.size} kinds of devices, too many of each to plan; use fewer`);
}

function invalidDevices(description: string): AppError {
  return new AppError("invalid_argument", `--devices ${description}`, {
    reason: "INVALID_PLAN",
    violations: [{ field: "--devices", description }],
  });
}
