/**
 * What is there of each file of a model, and whether it is what the hub's list says. "Verified" is
 * said of whole files only, whose bytes were compared with the digest of the list.
 */
import { join } from "node:path";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import { byteCount } from "../../core/hub/byte-ranges.ts";
import { digestError, type HubTarget } from "../../core/hub/hub-error.ts";
import { listedDigest, type ListedFile } from "../../core/hub/model-files.ts";
import type { FetchProgress, OnProgress } from "./fetch-tally.ts";
import { digestOfFile } from "./file-digest.ts";
import { withLock } from "../file-lock.ts";
import type { HubModel } from "./hub-model.ts";
import type { HubSettings } from "./hub-settings.ts";
import type { WeightFile } from "./weight-file.ts";

/** `whole`: all bytes are there, and were not compared with a digest, or the hub gives none. */
export type FileState = "verified" | "whole" | "part";

export interface CachedFile {
  readonly path: string;
  readonly size: number;
  readonly presentBytes: number;
  readonly state: FileState;
}

/** As the manifests say; nothing is read. */
export async function cachedFiles(model: HubModel): Promise<readonly CachedFile[]> {
  const sparse = sparseByPath(model);
  const files = [...(model.files?.small ?? []), ...(model.files?.weights ?? [])];
  return Promise.all(
    files.map(async ({ path, size }): Promise<CachedFile> => {
      const weights = sparse.get(path);
      if (weights === undefined) return { path, size, presentBytes: size, state: "whole" };
      const { ranges, verified } = await weights.manifest();
      const presentBytes = byteCount(ranges);
      const state = verified ? "verified" : presentBytes === size ? "whole" : "part";
      return { path, size, presentBytes, state };
    }),
  );
}

/**
 * Reads everything that is there whole and compares it.
 * @throws AppError HUB_DIGEST_MISMATCH naming every file that differs; those of ours are thrown away,
 *   another's are left alone
 */
export async function verifyFiles(
  model: HubModel,
  settings: HubSettings,
  onProgress?: OnProgress,
): Promise<readonly CachedFile[]> {
  const { lockStaleMs: staleMs, lockHeartbeatMs: heartbeatMs } = settings.limits;
  const sparse = sparseByPath(model);
  const before = await cachedFiles(model);
  const listed = [...(model.files?.small ?? []), ...(model.files?.weights ?? [])];
  const totalBytes = before.reduce(
    (sum, { state, size }) => sum + (state === "part" ? 0 : size),
    0,
  );
  const progress: { -readonly [K in keyof FetchProgress]: number } = { doneBytes: 0, totalBytes };
  const onBytes = (bytes: number): void => {
    progress.doneBytes += bytes;
    onProgress?.({ ...progress });
  };
  const after: CachedFile[] = [];
  const wrong: AppError[] = [];
  for (const [index, file] of before.entries()) {
    const weights = sparse.get(file.path);
    if (file.state === "part") {
      after.push(file);
      continue;
    }
    try {
      const isVerified =
        weights === undefined
          ? await compare(model, listed[index]!, targetOf(model, settings, file.path), onBytes)
          : await withLock(weights.place.lockFile, { staleMs, heartbeatMs }, (lock) =>
              weights.verify(lock, onBytes),
            );
      after.push({ ...file, state: isVerified ? "verified" : "whole" });
    } catch (thrown) {
      const error = toAppError(thrown);
      if (error.reason !== "HUB_DIGEST_MISMATCH") throw error;
      wrong.push(error);
    }
  }
  const [first] = wrong;
  if (first === undefined) return after;
  const message = wrong.map((error) => error.message).join("\n");
  throw new AppError(first.code, message, { reason: first.reason, details: first.details });
}

function sparseByPath({ weights }: HubModel): ReadonlyMap<string, WeightFile> {
  return new Map(weights.map((one) => [one.place.target.path!, one]));
}

async function compare(
  { folder }: HubModel,
  listed: ListedFile,
  target: HubTarget,
  onBytes: (bytes: number) => void,
): Promise<boolean> {
  const digest = listedDigest(listed);
  if (digest === undefined) return false;
  const found = await digestOfFile(digest, join(folder, listed.path), onBytes);
  if (found !== digest.hex) throw digestError(target, digest.hex, found);
  return true;
}

function targetOf(model: HubModel, { endpoint, token }: HubSettings, path: string): HubTarget {
  const { repository, commit } = model;
  return { endpoint, repository, revision: commit, path, hasToken: token !== undefined };
}
