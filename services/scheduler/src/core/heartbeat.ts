/**
 * Compares what a group says it holds with what the records say it holds. A resident that no
 * record knows (a placement that was fenced, a command that arrived late) is revoked; a job that
 * the group no longer lists is lost; a cancel that shows no effect is sent again.
 */
import type { GroupEntry, Resident } from "./group-table.ts";
import { type Fence, isPlacedAt } from "./job.ts";
import { decided, type JobEntry, type JobTable, keyOf } from "./job-table.ts";
import { DROPPED_MS, REVOKE_AGAIN_MS } from "./limits.ts";

export interface Reconciliation {
  readonly revoke: readonly Fence[];
  readonly dropped: readonly JobEntry[];
}

export interface ReconcileInput {
  readonly group: GroupEntry;
  readonly jobs: JobTable;
  /** Undefined while the leader's path through NATS is not proven: nothing is concluded then. */
  readonly provenSinceMs: number | undefined;
  readonly fence: (resident: Resident) => Fence;
  readonly nowMs: number;
}

export function reconcileResidents(input: ReconcileInput): Reconciliation {
  const { group, jobs, nowMs } = input;
  const revoke: Fence[] = [];
  const strays = new Set<string>();
  for (const resident of group.residents) {
    const fence = input.fence(resident);
    const entry = jobs.get(keyOf(fence));
    const record = entry && decided(entry);
    if (entry && record && isPlacedAt(record, fence)) {
      entry.seenMs = nowMs;
      if (record.state !== "cancelling" || nowMs - entry.revokedMs < REVOKE_AGAIN_MS) continue;
      entry.revokedMs = nowMs;
      revoke.push(fence);
    } else {
      const name = `${keyOf(fence)}/${resident.attempt}`;
      strays.add(name);
      if (isStrayDue(group, name, nowMs)) revoke.push(fence);
    }
  }
  for (const name of group.strays.keys()) if (!strays.has(name)) group.strays.delete(name);
  return { revoke, dropped: dropped(input) };
}

/** At its second sight, and then again now and then: a heartbeat may be older than the record. */
function isStrayDue(group: GroupEntry, name: string, nowMs: number): boolean {
  const stray = group.strays.get(name);
  if (!stray) {
    group.strays.set(name, { firstSeenMs: nowMs, revokedMs: 0 });
    return false;
  }
  if (nowMs - stray.revokedMs < REVOKE_AGAIN_MS) return false;
  stray.revokedMs = nowMs;
  return true;
}

function dropped({ group, jobs, provenSinceMs, nowMs }: ReconcileInput): JobEntry[] {
  if (provenSinceMs === undefined) return [];
  return jobs.placedOn(group.group, group.incarnation).filter((entry) => {
    // What is not written yet was not sent yet.
    if (entry.pending) return false;
    return nowMs - Math.max(entry.seenMs, provenSinceMs) > DROPPED_MS;
  });
}
