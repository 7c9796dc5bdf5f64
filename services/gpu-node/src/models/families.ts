/** The model families there are, and which of them a checkpoint belongs to. */
import type { Checkpoint } from "../core/checkpoint.ts";
import { checkpointError } from "../core/checkpoint-error.ts";
import type { ImageModel } from "../core/image-model.ts";
import type { RunType } from "../onnx/graph.ts";
import { describeFlux1, FLUX1_PIPELINES } from "./flux1.ts";
import type { Recipe } from "./network.ts";

export interface ModelOptions {
  readonly runType: RunType;
  readonly recipe?: Recipe | undefined;
}

interface Family {
  readonly pipelines: readonly string[];
  readonly describe: (checkpoint: Checkpoint, options: ModelOptions) => ImageModel;
}

const families: readonly Family[] = [{ pipelines: FLUX1_PIPELINES, describe: describeFlux1 }];

/** The checkpoint as an image model; throws an AppError that names what it is instead. */
export function describeModel(checkpoint: Checkpoint, options: ModelOptions): ImageModel {
  const { className } = checkpoint;
  const family = families.find(({ pipelines }) => pipelines.includes(className));
  if (family !== undefined) return family.describe(checkpoint, options);
  const known = families.flatMap(({ pipelines }) => pipelines).join(", ");
  const place = `${checkpoint.directory}/model_index.json: _class_name`;
  throw checkpointError(place, `is "${className}"; use a model folder of: ${known}`);
}
