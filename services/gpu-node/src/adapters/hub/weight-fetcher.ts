/**
 * `ensure`: the bytes that somebody needs of the weights are there when it returns. It does not ask
 * who needs them. Processes that share the cache share the work: whoever holds a file's lock fetches
 * what it needs of it, the others wait and find it there.
 */
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import {
  byteCount,
  type ByteRanges,
  byteSet,
  closeGaps,
  difference,
  pieces,
} from "../../core/hub/byte-ranges.ts";
import { offlineError } from "../../core/hub/hub-error.ts";
import { isWhole } from "../../core/hub/weight-manifest.ts";
import type { FileRange } from "../../core/image-model.ts";
import { type CacheStore, diskError } from "./cache-store.ts";
import { FetchTally, type OnProgress } from "./fetch-tally.ts";
import { FileLock } from "../file-lock.ts";
import type { HubClient } from "./hub-client.ts";
import type { HubSettings } from "./hub-settings.ts";
import { fetchRange } from "./range-fetch.ts";
import { Slots } from "./slots.ts";
import type { UseMark } from "./use-mark.ts";
import type { WeightFile } from "./weight-file.ts";

export interface WeightFetcherOptions {
  /** `org/name@commit`. */
  readonly name: string;
  readonly settings: HubSettings;
  readonly client: HubClient;
  readonly store: CacheStore;
  readonly mark: UseMark;
  /** Sparse files of the model, those that are not whole by themselves. */
  readonly weights: readonly WeightFile[];
  readonly signal: AbortSignal | undefined;
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
}

interface Need {
  readonly weights: WeightFile;
  readonly ranges: ByteRanges;
}

export class WeightFetcher {
  readonly #options: WeightFetcherOptions;
  readonly #slots: Slots;

  constructor(options: WeightFetcherOptions) {
    this.#options = options;
    this.#slots = new Slots(options.settings.limits.connections);
  }

  /**
   * Ranges of files that are not this model's, or that are whole anyway, are passed over.
   * @throws AppError HUB_*, CACHE_DISK_FULL, CACHE_LIMIT_REACHED; what came is kept
   */
  async ensure(ranges: readonly FileRange[], onProgress?: OnProgress): Promise<void> {
    const byFile = Map.groupBy(ranges, ({ file }) => file);
    const needs = this.#options.weights.flatMap((weights): Need[] => {
      const wanted = byFile.get(weights.place.file) ?? [];
      const set = byteSet(wanted.map(({ offset, length }) => [offset, offset + length]));
      return set.length === 0 ? [] : [{ weights, ranges: set }];
    });
    const missing = new Map<string, number>();
    const open: Need[] = [];
    for (const need of needs) {
      const bytes = byteCount(await missingOf(need));
      if (bytes === 0) continue;
      missing.set(need.weights.place.file, bytes);
      open.push(need);
    }
    const { settings, name } = this.#options;
    if (open.length > 0 && settings.isOffline) throw offlineError(name, this.#namesOf(open));
    const tally = new FetchTally(missing, onProgress);
    tally.tell();
    if (open.length === 0) return;
    await this.#fetchAll(open, tally);
    tally.tell();
  }

  async #fetchAll(needs: readonly Need[], tally: FetchTally): Promise<void> {
    const { name, settings, store, mark, signal, log } = this.#options;
    await mark.pending(tally.missingBytes);
    try {
      const evicted = await store.makeRoom(name, tally.missingBytes, mark.id);
      for (const model of evicted) log("removed from the cache to make room", { model });
      // Each waits for its own lock: one that is held elsewhere holds up no other.
      const all = new Slots(needs.length);
      await all.each(needs, signal, (need, either) => this.#fetchFile(need, tally, either));
    } catch (thrown) {
      throw diskError(thrown, name, settings.cacheFolder);
    } finally {
      await mark.pending(0);
    }
  }

  async #fetchFile(need: Need, tally: FetchTally, signal: AbortSignal): Promise<void> {
    const { lockFile, file } = need.weights.place;
    const { lockStaleMs: staleMs, lockHeartbeatMs: heartbeatMs } = this.#options.settings.limits;
    for (;;) {
      const isDone = async (): Promise<boolean> => {
        const missing = byteCount(await missingOf(need));
        tally.set(file, missing);
        return missing === 0;
      };
      const lock = await FileLock.acquire(lockFile, { staleMs, heartbeatMs, signal, isDone });
      if (lock === undefined) return;
      try {
        await this.#fetchLocked(need, lock, tally, signal);
        return;
      } catch (thrown) {
        // Frozen for a while and taken for dead: what is missing now may be there soon.
        if (toAppError(thrown).reason !== "LOCK_LOST") throw thrown;
        this.#options.log("lost a lock, and starts over", { lockFile });
      } finally {
        lock.releaseNow();
      }
    }
  }

  async #fetchLocked(
    { weights, ranges }: Need,
    lock: FileLock,
    tally: FetchTally,
    signal: AbortSignal,
  ): Promise<void> {
    const { client, settings } = this.#options;
    const { limits } = settings;
    const { file, target, size } = weights.place;
    const writer = await weights.write(lock);
    const onBytes = (bytes: number): void => tally.came(file, bytes);
    const fetch = { client, writer, target, size, limits, onBytes };
    try {
      const missing = difference(ranges, writer.ranges);
      tally.set(file, byteCount(missing));
      const wanted = closeGaps(missing, writer.ranges, limits.gapBytes);
      await this.#slots.each(pieces(wanted, limits.pieceBytes), signal, (piece, either) =>
        fetchRange({ ...fetch, signal: either }, piece),
      );
    } catch (thrown) {
      if (thrown instanceof AppError && thrown.reason === "HUB_FILE_CHANGED") {
        lock.assertHeld();
        await weights.discard();
      }
      throw thrown;
    } finally {
      await writer.close();
    }
    const manifest = await weights.manifest();
    if (isWhole(manifest) && !manifest.verified) await weights.verify(lock);
  }

  #namesOf(needs: readonly Need[]): string {
    return needs.map(({ weights }) => weights.place.target.path).join(", ");
  }
}

async function missingOf({ weights, ranges }: Need): Promise<ByteRanges> {
  return difference(ranges, (await weights.manifest()).ranges);
}
