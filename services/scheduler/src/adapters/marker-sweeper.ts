/**
 * Erases the markers that purged records leave for watchers, once every watcher has had the time
 * to see them. They take room in the bucket, so as many go as purges may leave.
 */
import { PURGES_PER_TICK_MAX, TICK_MS } from "../core/limits.ts";

export const markerAgeMsMin = 60_000;
export const markersEveryMs = 10_000;
const ticks = Math.ceil(markersEveryMs / TICK_MS);
/** A quarter more than can come in that time. */
export const markersPerSweepMax = Math.ceil(PURGES_PER_TICK_MAX * ticks * 1.25);

export class MarkerSweeper {
  readonly #markers = new Map<string, { revision: number; seenMs: number }>();
  readonly #erase: (key: string, revision: number) => Promise<void>;
  #sweeping = false;

  constructor(erase: (key: string, revision: number) => Promise<void>) {
    this.#erase = erase;
  }

  seen(key: string, revision: number, nowMs: number): void {
    this.#markers.set(key, { revision, seenMs: nowMs });
  }

  /** Resolves to how many were erased; `goOn` false ends it. */
  async sweep(nowMs: number, goOn: () => boolean): Promise<number> {
    if (this.#sweeping) return 0;
    this.#sweeping = true;
    let erased = 0;
    try {
      for (const [key, { revision, seenMs }] of this.#markers) {
        if (!goOn() || erased >= markersPerSweepMax) break;
        if (nowMs - seenMs < markerAgeMsMin) continue;
        await this.#erase(key, revision);
        // Another may have come under the same key.
        if (this.#markers.get(key)?.revision === revision) this.#markers.delete(key);
        erased += 1;
      }
      return erased;
    } finally {
      this.#sweeping = false;
    }
  }
}
