/**
 * A model folder in diffusers layout, once its small files and headers have been read: configs,
 * texts, and for each network the byte range of every tensor. Pure data; `adapters/` fills it.
 */
import { AppError } from "@fluxline/kernel/error.ts";
import { checkpointError, missingFileError, shown } from "./checkpoint-error.ts";
import { isJsonObject, JsonConfig } from "./json-config.ts";
import type { StoredTensor, StoredType, TensorIndex } from "./safetensors.ts";

/** One network of the checkpoint: a subfolder with a config.json and safetensors weights. */
export interface Component {
  /** Folder name, like `transformer`. */
  readonly name: string;
  readonly config: JsonConfig;
  readonly weights: TensorIndex;
  /**
   * Of a folder with configs and no weights: the type in which they are taken to be stored. Names
   * and shapes are then what the network asks for; such a part can be sized, not run.
   */
  readonly assumedType?: StoredType;
}

export interface Checkpoint {
  /** Absolute path. */
  readonly directory: string;
  /** Last part of the path, for people. */
  readonly name: string;
  /** `_class_name` of model_index.json. */
  readonly className: string;
  /** Hex sha256 over all small files and the weight files; `adapters/checkpoint-digest.ts`. */
  readonly digest: string;
  /** Relative path, like `tokenizer/vocab.json`, to content. */
  readonly texts: ReadonlyMap<string, string>;
  readonly components: ReadonlyMap<string, Component>;
}

export const MODEL_INDEX = "model_index.json";

/** The network of that name; a folder without it is not of this architecture. */
export function component(checkpoint: Checkpoint, name: string): Component {
  const found = checkpoint.components.get(name);
  if (found !== undefined) return found;
  const place = `${checkpoint.directory}/${MODEL_INDEX}: ${name}`;
  const present = [...checkpoint.components.keys()].join(", ") || "none";
  throw checkpointError(place, `the model has no such part (parts with weights: ${present})`);
}

/** The content of a small file by its path inside the folder. */
export function textFile(checkpoint: Checkpoint, path: string): string {
  const text = checkpoint.texts.get(path);
  if (text !== undefined) return text;
  throw missingFileError(`${checkpoint.directory}/${path}`, "copy it from the model's repository");
}

export function configFile(checkpoint: Checkpoint, path: string): JsonConfig {
  return JsonConfig.parse(`${checkpoint.directory}/${path}`, textFile(checkpoint, path));
}

/** The pipeline class that model_index.json names, if it is one of `accepted`. */
export function pipelineClass(index: JsonConfig, accepted: readonly string[]): string {
  const className = index.string("_class_name");
  if (accepted.length === 0 || accepted.includes(className)) return className;
  const list = accepted.join(", ");
  throw index.error("_class_name", `is ${shown(className)}; use a model folder of: ${list}`);
}

/**
 * One index over the shards of a network. `index` is the content of `*.index.json`; `shards` maps
 * the file names that exist beside it to their tensors.
 */
export function mergeShards(
  index: JsonConfig,
  shards: ReadonlyMap<string, TensorIndex>,
): TensorIndex {
  const merged = new Map<string, StoredTensor>();
  for (const [name, shard] of weightMap(index)) {
    const tensors = shards.get(shard);
    assertShard(index, name, shard, tensors);
    const tensor = tensors.get(name);
    if (tensor === undefined) {
      const found = `is listed in ${shard}, which has no such tensor`;
      throw index.error(`weight_map: ${name}`, `${found}; fetch both files again`);
    }
    merged.set(name, tensor);
  }
  return merged;
}

function assertShard(
  index: JsonConfig,
  name: string,
  shard: string,
  tensors: TensorIndex | undefined,
): asserts tensors is TensorIndex {
  if (tensors !== undefined) return;
  const place = `${index.file}: weight_map: ${name}`;
  throw new AppError("not_found", `${place}: its file ${shard} does not exist; fetch it`, {
    reason: "CHECKPOINT_FILE_MISSING",
    violations: [{ field: place, description: `its file ${shard} does not exist; fetch it` }],
  });
}

/** Tensor name and shard file name, in the order of the file. */
export function weightMap(index: JsonConfig): readonly (readonly [string, string])[] {
  const map = index.value("weight_map");
  if (!isJsonObject(map)) {
    throw index.error("weight_map", `is ${shown(map)}; it must be an object of tensor to file`);
  }
  return Object.entries(map).map(([name, shard]) => {
    const plain = typeof shard === "string" && /^[^/\\]+\.safetensors$/.test(shard);
    if (plain) return [name, shard];
    throw index.error(
      `weight_map: ${name}`,
      `is ${shown(shard)}; it must be the name of a .safetensors file in the same folder`,
    );
  });
}
