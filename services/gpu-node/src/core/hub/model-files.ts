/**
 * Which files of a repository are the model: those that a checkpoint is opened from, and no others
 * (FLUX.1 repositories carry all weights a second time, as one file for other programs).
 */
import { MODEL_INDEX, weightMap } from "../checkpoint.ts";
import { JsonConfig } from "../json-config.ts";

/** A file as the hub lists it. */
export interface ListedFile {
  readonly path: string;
  readonly size: number;
  /** Git's name of its content: sha1 over a small header and the bytes; undefined: not given. */
  readonly gitSha1: string | undefined;
  /** Of large files, where the hub gives it. */
  readonly sha256: string | undefined;
}

/** How the bytes of a file are compared with what the hub lists. */
export interface ListedDigest {
  readonly algorithm: "sha256" | "sha1";
  /** Hashed before the bytes. */
  readonly prefix: string;
  readonly hex: string;
}

/** Undefined where the hub gives none. */
export function listedDigest({ size, gitSha1, sha256 }: ListedFile): ListedDigest | undefined {
  if (sha256 !== undefined) return { algorithm: "sha256", prefix: "", hex: sha256 };
  if (gitSha1 === undefined) return undefined;
  return { algorithm: "sha1", prefix: `blob ${size}\0`, hex: gitSha1 };
}

const WEIGHT_BASENAMES = ["diffusion_pytorch_model", "model"] as const;
const SHARD_INDEX = ".safetensors.index.json";

/** The parts that the index names, as folders. */
export function partFolders(modelIndex: string): readonly string[] {
  const index = JsonConfig.parse(MODEL_INDEX, modelIndex);
  const isPart = ([name, entry]: readonly [string, unknown]): boolean =>
    !name.startsWith("_") && /^[\w.-]+$/.test(name) && Array.isArray(entry) && entry[1] !== null;
  return index
    .entries()
    .filter(isPart)
    .map(([name]) => name);
}

/** Small files: they are fetched whole, because the digest covers them all. */
export function smallFiles(
  files: readonly ListedFile[],
  folders: readonly string[],
): readonly ListedFile[] {
  const wanted = new Set(["", ...folders]);
  return files.filter(({ path }) => /\.(json|txt)$/.test(path) && wanted.has(folderOf(path)));
}

/**
 * The weight files of each part, chosen as the checkpoint's reader chooses: a sharded index before a
 * single file. `readText` gives a small file by its path.
 */
export function weightFiles(
  files: readonly ListedFile[],
  folders: readonly string[],
  readText: (path: string) => string,
): readonly ListedFile[] {
  const byPath = new Map(files.map((file) => [file.path, file]));
  return folders.flatMap((folder) => {
    for (const base of WEIGHT_BASENAMES) {
      const index = `${folder}/${base}${SHARD_INDEX}`;
      if (byPath.has(index)) {
        const shards = weightMap(JsonConfig.parse(index, readText(index))).map(([, name]) => name);
        return [...new Set(shards)].flatMap((name) => byPath.get(`${folder}/${name}`) ?? []);
      }
      const single = byPath.get(`${folder}/${base}.safetensors`);
      if (single !== undefined) return [single];
    }
    return [];
  });
}

function folderOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}
