/**
 * A lock that processes of several containers hold by a file they share. Process ids mean nothing
 * across containers and clocks differ, so life is a heartbeat: the holder touches the file, and a
 * waiter that has itself seen no change of it for `staleMs` takes it over.
 *
 *   free -> held: create the file, exclusively, with a token that nobody else has
 *   held -> held by another: a waiter renames its own file over a stale one
 *   held -> free: remove the file, if the token in it is still ours
 *
 * A holder that was thought dead (a frozen process) finds another's token at its next heartbeat and
 * before each commit: `assertHeld` throws, and it starts over. Two that take over the same stale
 * lock rename one after the other; each looks again after a while, and only the last one holds it.
 */
import { randomUUID } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { mkdir, readFile, rename, stat, utimes, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "@fluxline/kernel/error.ts";

const POLL_MS = 100;
/** Longer than any rename under way at the same time. */
const SETTLE_MS = 250;

export interface LockTimes {
  readonly staleMs: number;
  readonly heartbeatMs: number;
}

export interface LockOptions extends LockTimes {
  readonly signal?: AbortSignal | undefined;
  /**
   * Asked every now and then while another holds it; true ends the wait without the lock, because
   * what it was wanted for has been done.
   */
  readonly isDone?: () => Promise<boolean>;
}

const held = new Set<FileLock>();
process.on("exit", () => {
  for (const lock of held) lock.releaseNow();
});

export class FileLock {
  readonly #file: string;
  readonly #token: string;
  readonly #timer: NodeJS.Timeout;
  #isLost = false;

  private constructor(file: string, token: string, heartbeatMs: number) {
    this.#file = file;
    this.#token = token;
    this.#timer = setInterval(() => void this.#beat(), heartbeatMs);
    this.#timer.unref();
    held.add(this);
  }

  /** Waits until it is free; undefined when `isDone` came first. */
  static async acquire(file: string, options: LockOptions): Promise<FileLock | undefined> {
    const { staleMs, heartbeatMs, signal, isDone } = options;
    await mkdir(dirname(file), { recursive: true });
    const token = randomUUID();
    let seen: { state: string; sinceMs: number } | undefined;
    for (;;) {
      signal?.throwIfAborted();
      if (await create(file, token)) return new FileLock(file, token, heartbeatMs);
      const state = await stateOf(file);
      const nowMs = performance.now();
      if (state === undefined) seen = undefined;
      else if (seen?.state !== state) seen = { state, sinceMs: nowMs };
      else if (nowMs - seen.sinceMs > staleMs) {
        if (await takeOver(file, token, state)) return new FileLock(file, token, heartbeatMs);
        seen = undefined;
      }
      if (await isDone?.()) return undefined;
      await sleep(POLL_MS, undefined, { signal });
    }
  }

  /** @throws AppError LOCK_LOST when another has taken it over */
  assertHeld(): void {
    if (!this.#isLost && readToken(this.#file) !== this.#token) this.#isLost = true;
    if (!this.#isLost) return;
    const message = `${this.#file}: another process took the lock over, because this one was still`;
    throw new AppError("aborted", message, { reason: "LOCK_LOST", retryable: true });
  }

  /** Synchronous, so that it works at the end of a process too. Safe to call twice. */
  releaseNow(): void {
    clearInterval(this.#timer);
    held.delete(this);
    if (this.#isLost || readToken(this.#file) !== this.#token) return;
    // Taken over this very moment: whoever did so finds it gone, and starts over.
    rmSync(this.#file, { force: true });
  }

  async #beat(): Promise<void> {
    if (readToken(this.#file) !== this.#token) {
      this.#isLost = true;
      clearInterval(this.#timer);
      return;
    }
    const now = new Date();
    // Removed this very moment: the next look at the token says so.
    await utimes(this.#file, now, now).catch(() => undefined);
  }
}

/** Holds the lock while `work` runs. */
export async function withLock<T>(
  file: string,
  options: LockTimes & { readonly signal?: AbortSignal | undefined },
  work: (lock: FileLock) => Promise<T>,
): Promise<T> {
  const lock = (await FileLock.acquire(file, options))!;
  try {
    return await work(lock);
  } finally {
    lock.releaseNow();
  }
}

async function create(file: string, token: string): Promise<boolean> {
  try {
    await writeFile(file, token, { flag: "wx" });
    return true;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw thrown;
  }
}

/** Changes with every holder and every heartbeat; undefined: nobody holds it. */
async function stateOf(file: string): Promise<string | undefined> {
  try {
    return `${await readFile(file, "utf8")} ${(await stat(file)).mtimeMs}`;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw thrown;
  }
}

async function takeOver(file: string, token: string, stale: string): Promise<boolean> {
  const own = `${file}.${token}`;
  await writeFile(own, token, { flag: "wx" });
  if ((await stateOf(file)) !== stale) {
    rmSync(own);
    return false;
  }
  await rename(own, file);
  await sleep(SETTLE_MS);
  return readToken(file) === token;
}

function readToken(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw thrown;
  }
}
