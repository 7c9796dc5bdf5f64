/**
 * The jobs of a pool in the leader's memory, each with its revision in the store and at most one
 * write under way. A decision counts only once its record is written: replies, commands and
 * deletions wait in `after`. What arrives meanwhile waits behind the write, in order.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import {
  compareTurns,
  entryKey,
  type Fence,
  isActive,
  isEnded,
  type JobRecord,
  type Placement,
  unitsLeft,
} from "./job.ts";
import type { JobEvent } from "./job-transition.ts";
import { WAITING_PER_JOB_MAX } from "./limits.ts";
import { roomOf } from "./record-room.ts";

/** Who waits for an answer: opaque to the core. */
export type Token = number;

export type Asker =
  | { readonly kind: "admit"; readonly token: Token; readonly fingerprint: string }
  | { readonly kind: "cancel"; readonly token: Token }
  | { readonly kind: "report"; readonly token: Token }
  | { readonly kind: "nobody" };

/** A record as the store has it. */
export interface LoadedJob {
  readonly record: JobRecord;
  readonly revision: number;
  readonly sizeBytes: number;
}

/** An event for a job, and who wants to hear what came of it. */
export interface Work {
  readonly event: JobEvent | { readonly kind: "look" };
  readonly asker: Asker;
}

export interface Pending {
  /** The record to be; undefined while the record is being purged. */
  readonly record: JobRecord | undefined;
  readonly work: Work;
  readonly revoke: Placement | undefined;
  readonly assign: boolean;
}

export interface JobEntry {
  readonly key: string;
  /** As it stands in the store; undefined until it was written for the first time. */
  record: JobRecord | undefined;
  revision: number;
  pending: Pending | undefined;
  readonly waiting: Work[];
  /** What its record may come to take in the store. */
  roomBytes: number;
  /** When its group was last known to hold it. */
  seenMs: number;
  revokedMs: number;
  /** It failed, and is not placed again before. Others may overtake it. */
  heldUntilMs: number;
}

export class JobTable {
  readonly #entries = new Map<string, JobEntry>();
  /** Those that are not decided to have ended: all that most decisions look at. */
  readonly #live = new Set<JobEntry>();
  readonly #queued = new Set<JobEntry>();
  /** By group and incarnation. */
  readonly #placed = new Map<string, Set<JobEntry>>();
  readonly #placedAt = new Map<JobEntry, string>();
  #nextArrival = 1n;
  #roomBytes = 0;

  get size(): number {
    return this.#entries.size;
  }

  /** What all records may come to take in the store. */
  get roomBytes(): number {
    return this.#roomBytes;
  }

  get(key: string): JobEntry | undefined {
    return this.#entries.get(key);
  }

  values(): Iterable<JobEntry> {
    return this.#entries.values();
  }

  get liveCount(): number {
    return this.#live.size;
  }

  /** A copy: what is done to the jobs may end them. */
  live(): JobEntry[] {
    return [...this.#live];
  }

  drawArrival(): bigint {
    const arrival = this.#nextArrival;
    this.#nextArrival += 1n;
    return arrival;
  }

  /** A record as the store has it. */
  adopt({ record, revision, sizeBytes }: LoadedJob, nowMs: number): JobEntry {
    const entry = this.#ensure(entryKey(record), nowMs);
    entry.record = record;
    entry.revision = revision;
    this.#resize(entry, roomOf(record, sizeBytes));
    if (record.arrival >= this.#nextArrival) this.#nextArrival = record.arrival + 1n;
    this.#index(entry);
    return entry;
  }

  /** Starts or ends the write that is under way. */
  setPending(entry: JobEntry, pending: Pending | undefined): void {
    entry.pending = pending;
    this.#index(entry);
  }

  /** The write is done: what was decided is so. */
  settle(entry: JobEntry, revision: number, sizeBytes: number): void {
    assert(entry.pending?.record, `job ${entry.key} has no write to settle`);
    entry.record = entry.pending.record;
    entry.revision = revision;
    this.#resize(entry, roomOf(entry.record, sizeBytes));
    this.setPending(entry, undefined);
  }

  /** An entry whose first write is under way. */
  begin(key: string, roomBytes: number, nowMs: number): JobEntry {
    assert(!this.#entries.has(key), `job ${key} is begun twice`);
    const entry = this.#ensure(key, nowMs);
    this.#resize(entry, roomBytes);
    return entry;
  }

  remove(entry: JobEntry): void {
    this.#roomBytes -= entry.roomBytes;
    this.#entries.delete(entry.key);
    this.#unindex(entry);
  }

  /** False when too much waits for this job already. */
  wait(entry: JobEntry, work: Work): boolean {
    if (entry.waiting.length >= WAITING_PER_JOB_MAX) return false;
    entry.waiting.push(work);
    return true;
  }

  /** Jobs that can be placed, whose turn it is first. */
  queue(nowMs: number): JobEntry[] {
    const queued: { entry: JobEntry; record: JobRecord }[] = [];
    for (const entry of this.#queued) {
      if (entry.pending || nowMs < entry.heldUntilMs) continue;
      const { record } = entry;
      if (record?.state === "queued") queued.push({ entry, record });
    }
    return queued.sort((a, b) => compareTurns(a.record, b.record)).map(({ entry }) => entry);
  }

  /** Jobs that wait, written or about to be. */
  get queuedCount(): number {
    return this.#queued.size;
  }

  /** Jobs that are (or are about to be) on a group. */
  placedOn(group: string, incarnation: string): JobEntry[] {
    return [...(this.#placed.get(placeName(group, incarnation)) ?? [])];
  }

  #ensure(key: string, nowMs: number): JobEntry {
    const present = this.#entries.get(key);
    if (present) return present;
    const entry: JobEntry = {
      key,
      record: undefined,
      revision: 0,
      pending: undefined,
      waiting: [],
      roomBytes: 0,
      seenMs: nowMs,
      revokedMs: 0,
      heldUntilMs: 0,
    };
    this.#entries.set(key, entry);
    return entry;
  }

  #index(entry: JobEntry): void {
    this.#unindex(entry);
    const record = decided(entry);
    if (record && !isEnded(record.state)) this.#live.add(entry);
    if (record?.state === "queued") this.#queued.add(entry);
    const occupant = occupying(entry);
    if (!occupant) return;
    const place = placeName(occupant.group, occupant.incarnation);
    const placed = this.#placed.get(place) ?? new Set();
    placed.add(entry);
    this.#placed.set(place, placed);
    this.#placedAt.set(entry, place);
  }

  #unindex(entry: JobEntry): void {
    this.#live.delete(entry);
    this.#queued.delete(entry);
    const place = this.#placedAt.get(entry);
    if (place === undefined) return;
    this.#placedAt.delete(entry);
    const placed = this.#placed.get(place);
    placed?.delete(entry);
    if (placed?.size === 0) this.#placed.delete(place);
  }

  #resize(entry: JobEntry, roomBytes: number): void {
    this.#roomBytes += roomBytes - entry.roomBytes;
    entry.roomBytes = roomBytes;
  }
}

/** The record as it was last decided, written or not. */
export function decided(entry: JobEntry): JobRecord | undefined {
  return entry.pending ? entry.pending.record : entry.record;
}

/**
 * The record by which a job takes room on a group: it does so from the decision to place it until
 * the write that takes it away is done.
 */
export function occupying(entry: JobEntry): JobRecord | undefined {
  if (entry.record && isActive(entry.record.state)) return entry.record;
  const record = decided(entry);
  return record && isActive(record.state) ? record : undefined;
}

export function slotsNeeded(record: JobRecord): number {
  return isEnded(record.state) ? 0 : Math.max(unitsLeft(record).length, 1);
}

export function keyOf(fence: Pick<Fence, "tenant" | "job">): string {
  return entryKey({ tenant: fence.tenant, id: fence.job });
}

function placeName(group: string, incarnation: string): string {
  return `${group}/${incarnation}`;
}
