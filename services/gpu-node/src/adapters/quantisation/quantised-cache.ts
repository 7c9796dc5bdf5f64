/**
 * Sees to it that the quantised files of a rank's graphs are there before its runner loads them:
 * checks those that exist, and makes those that are missing or damaged, in worker threads. Ranks and
 * groups on one node share the folder: each file is made by whoever claims it first, and the others
 * wait for it.
 */
import { randomUUID } from "node:crypto";
import { closeSync, openSync, readdirSync, rmSync, statSync, utimesSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import type { FileRange } from "../../core/image-model.ts";
import { elementCount } from "../../core/tensor.ts";
import type { QuantisedFile } from "../../core/quantised-file.ts";
import { cacheError } from "./cache-error.ts";
import { makeFolder } from "./make-folder.ts";
import { QuantisationPool } from "./quantisation-pool.ts";

export interface QuantisedCacheOptions {
  /** Worker threads. */
  readonly threads: number;
  /** A line for the log. */
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
  /** Told what of the checkpoint is about to be read; resolves when it is there. */
  readonly fetchSources?: (sources: readonly FileRange[]) => Promise<void>;
}

/** A claim is renewed this often, and taken over when it has not been for as long as the second. */
const CLAIM_RENEWED_MS = 2_000;
const CLAIM_STALE_MS = 30_000;
const CLAIM_POLL_MS = 200;
/** For one file that somebody else makes. */
const CLAIM_WAIT_MS_MAX = 15 * 60_000;
const PROGRESS_MS = 5_000;
/** Kept free beside what is written. */
const DISK_SPARE_BYTES = 64 * 2 ** 20;

/**
 * Resolves when all are there and sound.
 *
 * @throws AppError CACHE_DISK_FULL, CACHE_NOT_USABLE, CHECKPOINT_INVALID (a weight that cannot be
 *   quantised), QUANTISATION_STALLED (a file that another process claims and never ends)
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
    this.#log("making weights in int8", { files: missing.length, bytes });
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

  /** Each thread has one file in work, so that no claim is held for one that waits. */
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
    const endMs = performance.now() + CLAIM_WAIT_MS_MAX;
    for (;;) {
      const claim = Claim.take(file.file);
      if (claim !== undefined) return this.#make(file, claim, of);
      while (Claim.exists(file.file)) {
        if (performance.now() > endMs) throw stalledError(file.file);
        await new Promise((resolve) => setTimeout(resolve, CLAIM_POLL_MS));
      }
      if (await this.#isSound(file)) return;
    }
  }

  async #make(file: QuantisedFile, claim: Claim, of: number): Promise<void> {
    try {
      // Somebody may have made it between the check and the claim.
      if ((await this.#pool.check(file)) === "sound") return;
      await this.#pool.write(file, claim.draft);
    } finally {
      claim.release();
    }
    this.#made += 1;
    this.#parameters += file.tensors.reduce((sum, { source }) => {
      return sum + elementCount(source.shape);
    }, 0);
    this.#tell(of);
  }

  #tell(of: number): void {
    const nowMs = performance.now();
    if (nowMs - this.#toldMs < PROGRESS_MS) return;
    this.#toldMs = nowMs;
    this.#log("making weights in int8", { made: this.#made, of, seconds: this.#seconds() });
  }

  #seconds(): number {
    return (performance.now() - this.#begunMs) / 1000;
  }
}

/** The right to make a file, as a file beside it that others see. */
class Claim {
  readonly draft: string;
  readonly #path: string;
  readonly #timer: NodeJS.Timeout;
  readonly #atExit = (): void => this.release();

  private constructor(file: string) {
    this.#path = claimPath(file);
    this.draft = `${file}.${randomUUID()}.draft`;
    this.#timer = setInterval(() => renew(this.#path), CLAIM_RENEWED_MS).unref();
    process.once("exit", this.#atExit);
  }

  /** Undefined while somebody else has it. */
  static take(file: string): Claim | undefined {
    makeFolder(dirname(file));
    try {
      closeSync(openSync(claimPath(file), "wx"));
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code === "EEXIST") return undefined;
      throw thrown;
    }
    removeDrafts(file);
    return new Claim(file);
  }

  /** Whether somebody has it; one whose process is gone is removed. */
  static exists(file: string): boolean {
    const path = claimPath(file);
    const age = ageMs(path);
    if (age === undefined) return false;
    if (age < CLAIM_STALE_MS) return true;
    rmSync(path, { force: true });
    return false;
  }

  release(): void {
    clearInterval(this.#timer);
    process.off("exit", this.#atExit);
    rmSync(this.#path, { force: true });
    rmSync(this.draft, { force: true });
  }
}

function claimPath(file: string): string {
  return `${file}.claim`;
}

function renew(path: string): void {
  const now = new Date();
  try {
    utimesSync(path, now, now);
  } catch (thrown) {
    // Taken for stale by somebody after a long pause: then the file is made twice, to the same bytes.
    if ((thrown as NodeJS.ErrnoException).code !== "ENOENT") throw thrown;
  }
}

/** Drafts that a process left when it was killed: nobody writes to them who has not renewed a claim. */
function removeDrafts(file: string): void {
  const folder = dirname(file);
  const prefix = `${basename(file)}.`;
  for (const name of readdirSync(folder)) {
    if (!name.startsWith(prefix) || !name.endsWith(".draft")) continue;
    if ((ageMs(join(folder, name)) ?? 0) > CLAIM_STALE_MS)
      rmSync(join(folder, name), { force: true });
  }
}

function ageMs(path: string): number | undefined {
  try {
    return Date.now() - statSync(path).mtimeMs;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw thrown;
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
  const minutes = CLAIM_WAIT_MS_MAX / 60_000;
  const message = `${file}: another process has been making it for ${minutes} minutes; end that one`;
  return new AppError("unavailable", message, { reason: "QUANTISATION_STALLED" });
}
