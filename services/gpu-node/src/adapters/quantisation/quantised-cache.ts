/**
 * Sees to it that the quantised files of a rank's graphs are there before its runner loads them:
 * checks those that exist, and makes those that are missing or damaged, in worker threads. Ranks and
 * groups on one node share the folder: each file is made by whoever locks it first, and the others
 * wait for it.
 */
import { randomUUID } from "node:crypto";
import { readdirSync, rmSync, statSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import type { FileRange } from "../../core/image-model.ts";
import { elementCount } from "../../core/tensor.ts";
import type { QuantisedFile } from "../../core/quantised-file.ts";
import { FileLock } from "../file-lock.ts";
import type { StartProgress } from "../start-progress.ts";
import { cacheError } from "./cache-error.ts";
import { makeFolder } from "./make-folder.ts";
import { QuantisationPool } from "./quantisation-pool.ts";

export interface QuantisedCacheOptions {
  /** Worker threads. */
  readonly threads: number;
  /** A line for the log. */
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
  /** Every now and then while files are made. */
  readonly onProgress?: ((progress: StartProgress) => void) | undefined;
  /** Told what of the checkpoint is about to be read; resolves when it is there. */
  readonly fetchSources?: (sources: readonly FileRange[]) => Promise<void>;
}

const LOCK = { heartbeatMs: 1_000, staleMs: 6_000 };
/** For one file that somebody else makes. */
const OTHERS_MS_MAX = 15 * 60_000;
/** A draft that nobody has written to for so long was left by a process that is gone. */
const DRAFT_STALE_MS = 60_000;
const PROGRESS_MS = 5_000;
const MAKING = "making weights in int8";
/** Kept free beside what is written. */
const DISK_SPARE_BYTES = 64 * 2 ** 20;

/**
 * Resolves when all are there and sound.
 *
 * @throws AppError CACHE_DISK_FULL, CACHE_NOT_USABLE, CHECKPOINT_INVALID (a weight that cannot be
 *   quantised), QUANTISATION_STALLED (a file that another process locks and never ends)
 */
export async function prepareQuantised(
  files: readonly QuantisedFile[],
  options: QuantisedCacheOptions,
): Promise<void> {
  if (files.length === 0) return;
  const threads = Math.min(options.threads, files.length);
  const pool = new QuantisationPool(threads);
  try {
    await new Preparation(pool, { ...options, threads }).run(files);
  } catch (thrown) {
    throw cacheError(thrown, dirname(files[0]!.file));
  } finally {
    await pool.close();
  }
}

class Preparation {
  readonly #pool: QuantisationPool;
  readonly #options: QuantisedCacheOptions;
  readonly #log: QuantisedCacheOptions["log"];
  readonly #begunMs = performance.now();
  #made = 0;
  #parameters = 0;
  #toldMs = performance.now();

  constructor(pool: QuantisationPool, options: QuantisedCacheOptions) {
    this.#pool = pool;
    this.#options = options;
    this.#log = options.log;
  }

  async run(files: readonly QuantisedFile[]): Promise<void> {
    const sound = await Promise.all(files.map((file) => this.#isSound(file)));
    const found = files.filter((_, index) => sound[index]);
    const missing = files.filter((_, index) => !sound[index]);
    if (found.length > 0) {
      const facts = { files: found.length, bytes: totalBytes(found), seconds: this.#seconds() };
      this.#log("weights in int8 found in the cache", facts);
    }
    if (missing.length === 0) return;
    await assertSpace(missing);
    const bytes = totalBytes(missing);
    const sources = missing.flatMap(({ tensors }) => tensors.map(({ source }) => source));
    await this.#options.fetchSources?.(sources);
    this.#log(MAKING, { files: missing.length, bytes });
    this.#options.onProgress?.({ what: MAKING, done: 0, total: missing.length, unit: "files" });
    const begunMs = performance.now();
    await this.#obtainAll(missing);
    const seconds = (performance.now() - begunMs) / 1000;
    const facts = { files: this.#made, parameters: this.#parameters, seconds };
    this.#log("weights in int8 made", facts);
  }

  async #isSound(file: QuantisedFile): Promise<boolean> {
    const soundness = await this.#pool.check(file);
    if (soundness === "damaged") {
      this.#log("weights in int8 are damaged and are made again", { file: file.file });
    }
    return soundness === "sound";
  }

  /** Each thread has one file in work, so that no lock is held for one that waits. */
  async #obtainAll(files: readonly QuantisedFile[]): Promise<void> {
    const left = [...files];
    const lane = async (): Promise<void> => {
      for (let file = left.shift(); file !== undefined; file = left.shift()) {
        try {
          await this.#obtain(file, files.length);
        } catch (thrown) {
          left.length = 0; // the others end what they have begun
          throw thrown;
        }
      }
    };
    const ends = await Promise.allSettled(Array.from({ length: this.#options.threads }, lane));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
  }

  /** Makes the file, or waits until somebody else has. */
  async #obtain(file: QuantisedFile, of: number): Promise<void> {
    const signal = AbortSignal.timeout(OTHERS_MS_MAX);
    for (let isThere = false; !isThere;) {
      const lock = await lockOf(file, signal);
      try {
        isThere = (await this.#pool.check(file)) === "sound";
        if (isThere || lock === undefined) continue;
        removeDrafts(file.file);
        await this.#pool.write(file, `${file.file}.${randomUUID()}.draft`);
        isThere = true;
        this.#count(file, of);
      } finally {
        lock?.releaseNow();
      }
    }
  }

  #count({ tensors }: QuantisedFile, of: number): void {
    this.#made += 1;
    this.#parameters += tensors.reduce((sum, { source }) => sum + elementCount(source.shape), 0);
    this.#tell(of);
  }

  #tell(of: number): void {
    const nowMs = performance.now();
    if (nowMs - this.#toldMs < PROGRESS_MS) return;
    this.#toldMs = nowMs;
    this.#log(MAKING, { made: this.#made, of, seconds: this.#seconds() });
    this.#options.onProgress?.({ what: MAKING, done: this.#made, total: of, unit: "files" });
  }

  #seconds(): number {
    return (performance.now() - this.#begunMs) / 1000;
  }
}

/** Undefined: another process, which held it, has replaced the file. */
async function lockOf({ file }: QuantisedFile, signal: AbortSignal): Promise<FileLock | undefined> {
  const before = versionOf(file);
  const isDone = async (): Promise<boolean> => versionOf(file) !== before;
  try {
    return await FileLock.acquire(`${file}.lock`, { ...LOCK, signal, isDone });
  } catch (thrown) {
    throw signal.aborted ? stalledError(file) : thrown;
  }
}

/** Changes when the file is replaced. */
function versionOf(file: string): string | undefined {
  const found = statSync(file, { throwIfNoEntry: false });
  return found && `${found.ino} ${found.mtimeMs}`;
}

/** Those of processes that are gone: whoever holds the lock is the only one who writes. */
function removeDrafts(file: string): void {
  const folder = dirname(file);
  const drafts = readdirSync(folder).filter(
    (name) => name.startsWith(`${basename(file)}.`) && name.endsWith(".draft"),
  );
  for (const draft of drafts.map((name) => join(folder, name))) {
    const modifiedMs = statSync(draft, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - modifiedMs > DRAFT_STALE_MS) rmSync(draft, { force: true });
  }
}

async function assertSpace(files: readonly QuantisedFile[]): Promise<void> {
  const folder = dirname(files[0]!.file);
  makeFolder(folder);
  const { bavail, bsize } = await statfs(folder);
  const needed = totalBytes(files) + DISK_SPARE_BYTES;
  if (bavail * bsize >= needed) return;
  const found = `${folder}: weights in int8 need ${needed} bytes and ${bavail * bsize} are free`;
  const message = `${found}; make room, or name another folder with FLUXLINE_CACHE`;
  throw new AppError("resource_exhausted", message, { reason: "CACHE_DISK_FULL" });
}

function totalBytes(files: readonly QuantisedFile[]): number {
  return files.reduce((sum, { bytes }) => sum + bytes, 0);
}

function stalledError(file: string): AppError {
  const minutes = OTHERS_MS_MAX / 60_000;
  const message = `${file}: another process has been making it for ${minutes} minutes; end that one`;
  return new AppError("unavailable", message, { reason: "QUANTISATION_STALLED" });
}
