/**
 * Job records in the bucket `jobs`. A write whose answer is lost is resolved by reading, so that
 * the core hears only what is so: written, conflict (with what is there) or refused.
 */
import { isDeepStrictEqual } from "node:util";
import { type AppError, toAppError } from "@fluxline/kernel/error.ts";
import type { KeyValue, Stored } from "@fluxline/platform/bus/key-value.ts";
import { keyOfPool } from "@fluxline/platform/bus/topology.ts";
import type { JobRecord } from "../core/job.ts";
import type { LoadedJob } from "../core/job-table.ts";
import { decodeRecord, encodeRecord } from "./record-codec.ts";

export type WriteResult =
  | { readonly kind: "written"; readonly revision: number; readonly sizeBytes: number }
  | { readonly kind: "conflict"; readonly stored: LoadedJob | undefined }
  | { readonly kind: "refused"; readonly error: AppError }
  /** We may not write any more: whoever leads next finds out. */
  | { readonly kind: "abandoned" };

/** What a look at the store shows of a write. */
type Sight =
  | WriteResult
  /** What the write was to follow is still there. */
  | { readonly kind: "unchanged" }
  | { readonly kind: "unseen" };

const unchanged = { kind: "unchanged" } as const;

const retryDelayMsFirst = 100;
const retryDelayMsMax = 1_000;

export class JobStore {
  readonly #kv: KeyValue;
  readonly #pool: string;
  readonly #mayWrite: () => boolean;

  /** `mayWrite` is asked before every attempt: false once the lease is gone. */
  constructor(kv: KeyValue, pool: string, mayWrite: () => boolean) {
    this.#kv = kv;
    this.#pool = pool;
    this.#mayWrite = mayWrite;
  }

  async write(key: string, record: JobRecord, revision: number): Promise<WriteResult> {
    const value = encodeRecord(record);
    const fullKey = keyOfPool(this.#pool, key);
    return this.#settle(
      value.length,
      () =>
        revision === 0
          ? this.#kv.create(fullKey, value)
          : this.#kv.update(fullKey, value, revision),
      async () => {
        const stored = await this.#kv.get(fullKey);
        if ((stored?.revision ?? 0) === revision) return unchanged;
        // Ours after all: the answer was lost, not the write.
        if (stored && isDeepStrictEqual(Buffer.from(stored.value), Buffer.from(value))) {
          return { kind: "written", revision: stored.revision, sizeBytes: value.length };
        }
        return { kind: "conflict", stored: stored && loaded(stored) };
      },
    );
  }

  async purge(key: string, revision: number): Promise<WriteResult> {
    const fullKey = keyOfPool(this.#pool, key);
    return this.#settle(
      0,
      () => this.#kv.remove(fullKey, revision),
      async () => {
        const stored = await this.#kv.get(fullKey);
        if (!stored) return { kind: "written", revision, sizeBytes: 0 };
        if (stored.revision === revision) return unchanged;
        return { kind: "conflict", stored: loaded(stored) };
      },
    );
  }

  /** Erases the marker that a purge leaves for watchers. */
  async eraseMarker(key: string, revision: number): Promise<void> {
    await this.#kv.erase(keyOfPool(this.#pool, key), revision);
  }

  async #settle(
    sizeBytes: number,
    write: () => ReturnType<KeyValue["update"]>,
    look: () => Promise<Sight>,
  ): Promise<WriteResult> {
    let answerLost = false;
    for (let delayMs = retryDelayMsFirst; ; delayMs = Math.min(delayMs * 2, retryDelayMsMax)) {
      if (!this.#mayWrite()) return { kind: "abandoned" };
      const outcome = await write();
      if (outcome.kind === "written") return { ...outcome, sizeBytes };
      if (outcome.kind === "refused" && !answerLost) return outcome;
      if (outcome.kind === "unknown") answerLost = true;
      else {
        // Refused or in conflict, maybe with our own write before, whose answer was lost.
        const sight = await look().catch(unseen);
        if (sight.kind !== "unchanged" && sight.kind !== "unseen") return sight;
        if (sight.kind === "unchanged" && outcome.kind === "refused") return outcome;
      }
      // The same write again is safe: it names the revision that it follows.
      await new Promise((resolve) => setTimeout(resolve, delayMs));
    }
  }
}

/** The store may answer the next time; what stands there and cannot be read will not change. */
function unseen(thrown: unknown): Sight {
  const error = toAppError(thrown);
  return error.code === "unavailable" ? { kind: "unseen" } : { kind: "refused", error };
}

export function loaded(stored: Stored): LoadedJob {
  return {
    record: decodeRecord(stored.value),
    revision: stored.revision,
    sizeBytes: stored.value.length,
  };
}
