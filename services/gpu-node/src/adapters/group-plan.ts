/**
 * The plan of a group as each of its ranks works it out by itself, and what its devices hold. With
 * `--devices` the planner decides, within what the command line settles; without, blocks are spread
 * by their cost, and on the CPU provider this machine's memory is what each rank has.
 */
import { totalmem } from "node:os";
import { AppError } from "@fluxline/kernel/error.ts";
import type { MemoryBound } from "@fluxline/kernel/memory-bound.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import { devicesText } from "../core/device-offer.ts";
import type { Device, FixedChoices, Placement } from "../core/placement.ts";
import { type ModelLayout, type Place, planStages, type StagePlan } from "../core/stage-plan.ts";
import { GBIT_BYTES, hostMemory, type PoolPlanRequest, planPool } from "../models/pool-plan.ts";
import type { GroupOffer, RankOptions } from "./stage-options.ts";

interface GroupPlan {
  readonly plan: StagePlan;
  readonly memory: readonly MemoryBound[];
}

/** @throws AppError INVALID_PLAN, PLAN_DOES_NOT_FIT */
export function planGroup(
  checkpoint: Checkpoint,
  layout: ModelLayout,
  options: RankOptions,
): GroupPlan {
  const { stages, cuts, places, sequential, decodeTile, offer, provider } = options;
  const given = { stages, cuts, places, sequential, decodeTile };
  // Names what is wrong with the options, whoever plans.
  const spread = planStages(layout, given);
  if (offer !== undefined) return planOffer(checkpoint, layout, options, offer);
  if (provider !== "cpu") return { plan: spread, memory: [] };
  const machine = machineBytes();
  const devices = spread.stages.map(() => deviceOf(machine));
  const fixed = {
    cuts: spread.stages.slice(1).map(({ first }) => first),
    places: spread.places,
    sequential: spread.sequential,
    decodeTile: spread.decodeTile,
  };
  // Only the bounds are wanted: at a size just above a power of two, where they are widest.
  const request = poolRequest(options, { devices, width: 1040, height: 1040, linkGbit: 1, fixed });
  const pool = planPool(checkpoint, request);
  const host = hostMemory(checkpoint, request, pool, machine);
  return { plan: spread, memory: [...pool.memory, ...host] };
}

function planOffer(
  checkpoint: Checkpoint,
  layout: ModelLayout,
  options: RankOptions,
  offer: GroupOffer,
): GroupPlan {
  const { stages, cuts, places, sequential, decodeTile } = options;
  const fixed: FixedChoices = {
    cuts,
    places,
    ...(sequential.size === 0 ? {} : { sequential }),
    decodeTile,
  };
  const request = poolRequest(options, { ...offer, fixed });
  const pool = planPool(checkpoint, request);
  const { result } = pool;
  if (!result.fits) throw doesNotFit(options, offer, result.shortfallBytes);
  const { placement } = result;
  const plan = planStages(layout, {
    stages,
    cuts: placement.stages.slice(1).map(({ blocks }) => blocks.first),
    places: placesOf(placement),
    sequential: sequentialOf(placement),
    decodeTile: placement.decodeTile,
  });
  return {
    plan,
    memory: [...pool.memory, ...hostMemory(checkpoint, request, pool, machineBytes())],
  };
}

function poolRequest(
  { runType, provider, rowsMax }: RankOptions,
  offer: {
    readonly devices: readonly Device[];
    readonly width: number;
    readonly height: number;
    readonly linkGbit: number;
    readonly fixed: FixedChoices;
  },
): PoolPlanRequest {
  const { devices, width, height, linkGbit, fixed } = offer;
  return {
    precision: runType,
    provider,
    devices,
    width,
    height,
    rows: rowsMax,
    linkBytesPerSecond: linkGbit * GBIT_BYTES,
    order: "given",
    fixed,
  };
}

function placesOf({ stages, host }: Placement): Map<string, Place> {
  const places = new Map<string, Place>(host.components.map((name) => [name, "cpu"]));
  for (const [rank, { components }] of stages.entries()) {
    for (const { name } of components) places.set(name, rank);
  }
  return places;
}

function sequentialOf({ stages }: Placement): Set<string> {
  const placed = stages.flatMap(({ components }) => components);
  return new Set(placed.filter(({ mode }) => mode === "sequential").map(({ name }) => name));
}

function doesNotFit(options: RankOptions, offer: GroupOffer, shortfallBytes: number): AppError {
  const { model, runType, rowsMax, provider } = options;
  const { devices, width, height } = offer;
  const missing = `${(shortfallBytes / 2 ** 30).toPrecision(2)} GiB`;
  const what = `${width}x${height} in steps of ${rowsMax} ${rowsMax === 1 ? "row" : "rows"} as ${runType}`;
  const list = devicesText(devices);
  const largest = `--max-size ${width}x${height} --max-batch ${rowsMax}`;
  const asked = `--devices ${list} --provider ${provider} --dtype ${runType} ${largest}`;
  const wayOut = `\`fluxline plan ${model} ${asked}\` tells what would`;
  const text = `does not hold ${what}: at least ${missing} are missing on a device; ${wayOut}`;
  return new AppError("failed_precondition", `--devices ${list} ${text}`, {
    reason: "PLAN_DOES_NOT_FIT",
    violations: [{ field: "--devices", description: text }],
    details: { shortfallBytes: String(shortfallBytes) },
  });
}

/** What this process may use, where a container limits it, or all there is. */
function machineBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

function deviceOf(memoryBytes: number): Device {
  return { kind: "this machine", memoryBytes, operationsPerSecond: 1e12 };
}
