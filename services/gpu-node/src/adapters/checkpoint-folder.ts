/**
 * Opens a model folder: reads its small files and the headers of its weights, never the weights
 * themselves (the graphs refer to them in place). Links are followed by the file system, so a
 * snapshot folder of the hub's cache is as good as a plain one.
 */
import { open, readdir, readFile, stat, type FileHandle } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import { checkpointError, missingFileError, shown } from "../core/checkpoint-error.ts";
import {
  mergeShards,
  MODEL_INDEX,
  pipelineClass,
  weightMap,
  type Checkpoint,
  type Component,
} from "../core/checkpoint.ts";
import { JsonConfig } from "../core/json-config.ts";
import {
  headerLength,
  LENGTH_PREFIX_BYTES,
  parseHeader,
  type StoredType,
  type TensorIndex,
} from "../core/safetensors.ts";
import { checkpointDigest } from "./checkpoint-digest.ts";

/** Largest JSON or text file that is read: tokenizers have a few MB. */
const TEXT_BYTES_MAX = 64 * 2 ** 20;
const WEIGHT_BASENAMES = ["diffusion_pytorch_model", "model"] as const;
/** Parts without weights, by class or by the config file that only they have. */
const SMALL_PARTS = /(Tokenizer(Fast)?|Scheduler|Extractor|Processor(Fast)?)$/;
const SMALL_CONFIGS: ReadonlySet<string> = new Set([
  "tokenizer_config.json",
  "scheduler_config.json",
  "preprocessor_config.json",
]);
const STORED_BY_NAME = { float32: "F32", float16: "F16", bfloat16: "BF16" } as const;
const FETCH = "copy the whole folder from the model's repository";

/**
 * @param pipelines class names of model_index.json that the caller can run; empty accepts any
 * @throws AppError naming the file, the key or tensor, the value and the way out
 */
export async function openCheckpoint(
  path: string,
  pipelines: readonly string[] = [],
): Promise<Checkpoint> {
  return openFolder(path, pipelines, readWeights);
}

/**
 * The same for a folder that may lack weights: parts without any are taken to be stored in the type
 * that their config names, or in bfloat16, as models of this size are published. To be sized only.
 */
export async function openGeometry(path: string): Promise<Checkpoint> {
  return openFolder(path, [], async (folder) => {
    const present = await readdir(folder);
    const has = present.some((name) => /\.safetensors(\.index\.json)?$/.test(name));
    return has ? readWeights(folder) : undefined;
  });
}

type WeightReader = (folder: string) => Promise<TensorIndex | undefined>;

async function openFolder(
  path: string,
  pipelines: readonly string[],
  weightsOf: WeightReader,
): Promise<Checkpoint> {
  const directory = resolve(path);
  await assertFolder(directory);
  const indexFile = join(directory, MODEL_INDEX);
  const index = JsonConfig.parse(indexFile, await readText(indexFile));
  const className = pipelineClass(index, pipelines);

  const folders = await subfolders(directory, index);
  const texts = new Map<string, string>();
  const components = new Map<string, Component>();
  const weightFiles = new Set<string>();
  for (const folder of ["", ...folders.keys()]) {
    for (const [name, text] of await readTexts(join(directory, folder))) {
      texts.set(folder === "" ? name : `${folder}/${name}`, text);
    }
  }
  for (const [folder, hasWeights] of folders) {
    if (!hasWeights) continue;
    const part = await readComponent(join(directory, folder), folder, texts, weightsOf);
    components.set(folder, part);
    for (const tensor of part.weights.values()) weightFiles.add(tensor.file);
  }
  const digest = await checkpointDigest(directory, texts, weightFiles);
  return { directory, name: basename(directory), className, digest, texts, components };
}

async function assertFolder(directory: string): Promise<void> {
  const found = await stat(directory).catch((cause: unknown) => {
    throw missingFileError(directory, "give the path of a model folder", cause);
  });
  if (!found.isDirectory()) {
    throw checkpointError(directory, "is a file; give the folder that holds model_index.json");
  }
}

/** The parts that model_index.json lists and whether each is a network with weights. */
async function subfolders(directory: string, index: JsonConfig): Promise<Map<string, boolean>> {
  const folders = new Map<string, boolean>();
  for (const [name, entry] of index.entries()) {
    if (name.startsWith("_") || !Array.isArray(entry)) continue;
    const className: unknown = entry[1];
    if (className === null) continue;
    if (typeof className !== "string" || !/^[\w.-]+$/.test(name)) {
      throw index.error(name, `is ${shown(entry)}; it must be [library, class name]`);
    }
    const present = await listFolder(join(directory, name));
    const small = SMALL_PARTS.test(className) || present.some((file) => SMALL_CONFIGS.has(file));
    folders.set(name, !small);
  }
  return folders;
}

async function listFolder(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (cause) {
    throw fileError(folder, cause);
  }
}

async function readTexts(folder: string): Promise<[string, string][]> {
  const names = (await readdir(folder)).filter((name) => /\.(json|txt)$/.test(name)).toSorted();
  const kept = names.filter((name) => !name.endsWith(".safetensors.index.json"));
  return Promise.all(
    kept.map(async (name): Promise<[string, string]> => [name, await readText(join(folder, name))]),
  );
}

async function readText(file: string): Promise<string> {
  const bytes = await readSmall(file);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw checkpointError(file, "is not UTF-8 text; fetch the file again", cause);
  }
}

async function readSmall(file: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(file);
    if (size <= TEXT_BYTES_MAX) return await readFile(file);
    const found = `has ${size} bytes, above the limit of ${TEXT_BYTES_MAX} for such a file`;
    throw checkpointError(file, `${found}; fetch the file again`);
  } catch (cause) {
    throw fileError(file, cause);
  }
}

/** File system errors as ours; what is ours already passes. */
function fileError(file: string, cause: unknown): AppError {
  if (cause instanceof AppError) return cause;
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  if (code === "ENOENT") return missingFileError(file, FETCH, cause);
  const why = cause instanceof Error ? cause.message : String(cause);
  return checkpointError(file, `cannot be read (${why}); check its permissions`, cause);
}

async function readComponent(
  folder: string,
  name: string,
  texts: ReadonlyMap<string, string>,
  weightsOf: WeightReader,
): Promise<Component> {
  const configPath = join(folder, "config.json");
  const text = texts.get(`${name}/config.json`);
  if (text === undefined) throw missingFileError(configPath, FETCH);
  const config = JsonConfig.parse(configPath, text);
  const weights = await weightsOf(folder);
  if (weights !== undefined) return { name, config, weights };
  return { name, config, weights: new Map(), assumedType: assumedType(config) };
}

/** Newer files say `dtype`, older ones `torch_dtype`; autoencoders say nothing. */
function assumedType(config: JsonConfig): StoredType {
  const key = config.has("dtype") ? "dtype" : "torch_dtype";
  const names = Object.keys(STORED_BY_NAME) as (keyof typeof STORED_BY_NAME)[];
  return STORED_BY_NAME[config.oneOf(key, names, "bfloat16")];
}

/** A sharded index comes before a single file, as the libraries that write these folders read. */
async function readWeights(folder: string): Promise<TensorIndex> {
  const present = await readdir(folder);
  for (const base of WEIGHT_BASENAMES) {
    const index = `${base}.safetensors.index.json`;
    if (present.includes(index)) return readShards(folder, join(folder, index), present);
    const single = `${base}.safetensors`;
    if (present.includes(single)) return readIndex(join(folder, single));
  }
  const other = present.find((name) => /\.(safetensors|bin|gguf|msgpack)$/.test(name));
  const hint = other === undefined ? "" : ` (${other} is there, which is another form or name)`;
  const names = WEIGHT_BASENAMES.map((base) => `${base}.safetensors`).join(" or ");
  throw missingFileError(join(folder, names), `${FETCH}${hint}`);
}

async function readShards(
  folder: string,
  indexFile: string,
  present: readonly string[],
): Promise<TensorIndex> {
  const index = JsonConfig.parse(indexFile, await readText(indexFile));
  const names = new Set(weightMap(index).map(([, shard]) => shard));
  const shards = new Map<string, TensorIndex>();
  for (const name of names) {
    if (present.includes(name)) shards.set(name, await readIndex(join(folder, name)));
  }
  return mergeShards(index, shards);
}

/** The tensors of one .safetensors file; reads its header only. */
export async function readIndex(file: string): Promise<TensorIndex> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(file, "r");
    const { size } = await handle.stat();
    const prefix = await readAt(handle, 0, Math.min(size, LENGTH_PREFIX_BYTES));
    const length = headerLength(file, size, prefix);
    return parseHeader(file, size, await readAt(handle, LENGTH_PREFIX_BYTES, length));
  } catch (cause) {
    throw fileError(file, cause);
  } finally {
    await handle?.close();
  }
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await handle.read(bytes, filled, length - filled, position + filled);
    if (bytesRead === 0) throw new Error(`the file ended at byte ${position + filled}`);
    filled += bytesRead;
  }
  return bytes;
}
