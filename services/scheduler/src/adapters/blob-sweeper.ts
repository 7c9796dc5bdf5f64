/**
 * Deletes blobs that nothing points to. Bounded each time; what is left comes next time, and the
 * TTL of the stores is the last resort.
 */
import type { Objects } from "@fluxline/platform/bus/object-store.ts";
import { jobOfBlob } from "@fluxline/platform/bus/topology.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { isOrphan } from "../core/blob-orphan.ts";
import { entryKey, type JobRecord } from "../core/job.ts";

/** Younger blobs may belong to a report that is on its way. */
export const orphanAgeMsMin = 10 * 60_000;
export const deletionsPerSweepMax = 500;

export interface SweepOptions {
  readonly pool: string;
  readonly stores: readonly Objects[];
  /** The job's record, by tenant and id. */
  readonly look: (key: string) => JobRecord | undefined;
  /** Its record is there, but this version cannot read what it points to. */
  readonly isUnreadable: (key: string) => boolean;
  readonly nowMs: number;
  readonly log: Logger;
  /** False ends the sweep: this replica leads no more. */
  readonly goOn: () => boolean;
}

/** Resolves to how many were deleted. */
export async function sweepBlobs(options: SweepOptions): Promise<number> {
  let deleted = 0;
  for (const store of options.stores) {
    for (const { key, modifiedMs } of await store.list()) {
      if (!options.goOn() || deleted >= deletionsPerSweepMax) return deleted;
      const job = jobOfBlob(key);
      if (job?.pool !== options.pool || options.nowMs - modifiedMs < orphanAgeMsMin) continue;
      const attempt = attemptOf(key);
      if (attempt === undefined) continue;
      const jobOfIt = entryKey(job);
      if (options.isUnreadable(jobOfIt)) continue;
      if (!isOrphan(options.look(jobOfIt), { key, attempt })) continue;
      await store.delete(key);
      deleted += 1;
    }
  }
  return deleted;
}

function attemptOf(key: string): bigint | undefined {
  const text = key.split("/")[3] ?? "";
  return /^\d{1,19}$/.test(text) ? BigInt(text) : undefined;
}
