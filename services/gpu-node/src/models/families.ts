/** The model families there are, and which of them a checkpoint belongs to. */
import type { MemoryBound } from "@fluxline/kernel/memory-bound.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import { checkpointError } from "../core/checkpoint-error.ts";
import type { Graph, ImageModel } from "../core/image-model.ts";
import type { ModelSizes, PlanShape, SizingRequest } from "../core/model-sizes.ts";
import type { BlockRange, ModelLayout } from "../core/stage-plan.ts";
import { describeFlux1, FLUX1_PIPELINES } from "./flux1.ts";
import { flux1Graphs, flux1Layout, type GraphSelection } from "./flux1-graphs.ts";
import { flux1PlanShape, flux1Sizes } from "./flux1-sizes.ts";
import type { Recipe } from "./network.ts";
import type { Computation } from "./precision.ts";

export interface ModelOptions extends Computation {
  readonly recipe?: Recipe | undefined;
  /** Cuts of the denoiser, in order and without a gap; default: one stage of all blocks. */
  readonly stages?: readonly BlockRange[];
  /** Components on a processor beside other devices: they compute in float32 there. */
  readonly onHost?: ReadonlySet<string>;
  /** For the profile: what each device of the group holds and needs. */
  readonly memory?: readonly MemoryBound[];
}

interface Family {
  readonly pipelines: readonly string[];
  readonly describe: (checkpoint: Checkpoint, options: ModelOptions) => ImageModel;
  readonly layout: (checkpoint: Checkpoint) => ModelLayout;
  readonly sizes: (checkpoint: Checkpoint, request: SizingRequest) => ModelSizes;
  readonly planShape: (checkpoint: Checkpoint) => PlanShape;
  readonly graphs: (
    checkpoint: Checkpoint,
    options: ModelOptions,
    selection: GraphSelection,
  ) => Graph[];
}

const families: readonly Family[] = [
  {
    pipelines: FLUX1_PIPELINES,
    describe: describeFlux1,
    layout: flux1Layout,
    sizes: flux1Sizes,
    planShape: flux1PlanShape,
    graphs: flux1Graphs,
  },
];

/** The checkpoint as an image model; throws an AppError that names what it is instead. */
export function describeModel(checkpoint: Checkpoint, options: ModelOptions): ImageModel {
  return familyOf(checkpoint).describe(checkpoint, options);
}

/** What of the model can be placed where: for the stage planner. */
export function modelLayout(checkpoint: Checkpoint): ModelLayout {
  return familyOf(checkpoint).layout(checkpoint);
}

/** Bytes and operations of its parts; a folder of configs without weights will do. */
export function modelSizes(checkpoint: Checkpoint, request: SizingRequest): ModelSizes {
  return familyOf(checkpoint).sizes(checkpoint, request);
}

/** What its memory and its pace are planned for. */
export function planShape(checkpoint: Checkpoint): PlanShape {
  return familyOf(checkpoint).planShape(checkpoint);
}

/** The graphs of one rank, for a process that runs them and plans no request. */
export function modelGraphs(
  checkpoint: Checkpoint,
  options: ModelOptions,
  selection: GraphSelection,
): Graph[] {
  return familyOf(checkpoint).graphs(checkpoint, options, selection);
}

function familyOf(checkpoint: Checkpoint): Family {
  const { className } = checkpoint;
  const family = families.find(({ pipelines }) => pipelines.includes(className));
  if (family !== undefined) return family;
  const known = families.flatMap(({ pipelines }) => pipelines).join(", ");
  const place = `${checkpoint.directory}/model_index.json: _class_name`;
  throw checkpointError(place, `is "${className}"; use a model folder of: ${known}`);
}
