/**
 * What a rank works out of the model and its command line before it loads anything: the plan, and
 * the identity with which it meets the others of its group.
 */
import { createRequire } from "node:module";
import { hostname } from "node:os";
import { AppError } from "@fluxline/kernel/error.ts";
import type { MemoryBound } from "@fluxline/kernel/memory-bound.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import { numericsClass } from "../core/numerics-class.ts";
import { componentsAt, type ModelLayout, planDigest, type StagePlan } from "../core/stage-plan.ts";
import { modelLayout } from "../models/families.ts";
import type { Recipe } from "../models/network.ts";
import { computation, type Computation, isProcessor } from "../models/precision.ts";
import { type Environment, quantisedFolder } from "./cache-folder.ts";
import { readCpuDeviceClass } from "./cpu-class.ts";
import { planGroup } from "./group-plan.ts";
import type { LinkIdentity } from "./stage-link/link-identity.ts";
import type { RankOptions } from "./stage-options.ts";

export interface RankFacts {
  readonly layout: ModelLayout;
  readonly plan: StagePlan;
  /** What requests need on each device and what is there; empty where that is not known. */
  readonly memory: readonly MemoryBound[];
  readonly recipe: Recipe;
  /** What this rank's graphs compute in; but for those on a processor beside other devices. */
  readonly computation: Computation;
  readonly onHost: ReadonlySet<string>;
  readonly numericsClass: string;
  /** Of the rank of this process, in this start of it. */
  identity(rank: number, incarnation: string): LinkIdentity;
}

/**
 * @throws AppError INVALID_PLAN naming every option that does not fit the model; PLAN_DOES_NOT_FIT
 * if the devices that were told cannot hold it
 */
export function rankFacts(
  checkpoint: Checkpoint,
  options: RankOptions,
  environment: Environment,
): RankFacts {
  const { provider, runType, pool, group, stages } = options;
  // WebGPU's fused attention gives wrong numbers from about 32 tokens on.
  const recipe = provider === "webgpu" ? "portable" : "fused";
  const layout = modelLayout(checkpoint);
  const { plan, memory } = planGroup(checkpoint, layout, options);
  const modelDigest = checkpoint.digest;
  const numerics = numericsClass({
    modelDigest,
    runType,
    recipe,
    runtimeVersion: onnxruntimeVersion(),
    cuts: plan.stages.slice(1).map(({ first }) => first),
    decodeTile: plan.decodeTile,
    ...deviceFacts(options, layout, plan),
  });
  return {
    layout,
    plan,
    memory,
    recipe,
    computation: computation(runType, provider, quantisedFolder(environment)),
    onHost: new Set(isProcessor(provider) ? [] : namesOnHost(layout, plan)),
    numericsClass: numerics,
    identity: (rank, incarnation) => ({
      role: rank === 0 ? "driver" : "stage",
      pool,
      group,
      incarnation,
      rank,
      stages,
      planDigest: planDigest(plan, { modelDigest, runType, recipe }),
      modelDigest,
      numericsClass: numerics,
    }),
  };
}

/**
 * A GPU of which nobody has said what kind it is has the class of this very machine: a checkpoint
 * made on another one is not gone on from, nor may a rank be on another one. What a group of GPUs
 * leaves to a CPU counts too, because that changes numbers; which rank it is placed on does not.
 */
function deviceFacts(
  { provider, runType, deviceClass = hostname() }: RankOptions,
  layout: ModelLayout,
  plan: StagePlan,
): { provider: string; deviceClass: string } {
  if (isProcessor(provider)) {
    return { provider, deviceClass: readCpuDeviceClass(runType) };
  }
  const onHost = namesOnHost(layout, plan);
  if (onHost.length === 0) return { provider, deviceClass };
  return {
    provider: `${provider},cpu:${onHost.join("+")}`,
    deviceClass: `${deviceClass},${readCpuDeviceClass(runType)}`,
  };
}

function namesOnHost(layout: ModelLayout, plan: StagePlan): string[] {
  return componentsAt(layout, plan, "cpu").map(({ name }) => name);
}

function onnxruntimeVersion(): string {
  const { version } = createRequire(import.meta.url)("onnxruntime-node/package.json") as {
    version?: string;
  };
  if (version !== undefined) return version;
  throw new AppError("internal", "onnxruntime-node has no version in its package.json");
}
