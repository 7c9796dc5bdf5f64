/**
 * A job as the core sees it: the durable record with states by name and times in milliseconds.
 * What the core does not look into (the spec, fields of a newer version) travels along untouched.
 */
import type { ErrorCode } from "@fluxline/kernel/error.ts";
import type { Advisory } from "@fluxline/kernel/image-request.ts";
import { type PriorityClass, turnMs } from "@fluxline/kernel/priority-class.ts";

export type ActiveState = "assigned" | "running" | "cancelling";
export type EndedState = "succeeded" | "failed" | "cancelled" | "expired";
export type JobState = "queued" | ActiveState | EndedState;

export const jobStates: readonly JobState[] = [
  "queued",
  "assigned",
  "running",
  "cancelling",
  "succeeded",
  "failed",
  "cancelled",
  "expired",
];

export interface BlobPointer {
  readonly bucket: string;
  readonly key: string;
}

/** One image of a request. */
export interface ImageUnit {
  readonly index: number;
  readonly checkpoint: BlobPointer | undefined;
  readonly checkpointStep: number;
  readonly result: BlobPointer | undefined;
  readonly image: unknown;
}

export interface Failure {
  readonly code: ErrorCode;
  readonly reason: string;
  readonly message: string;
  /** The failure as it came over the wire, when it did; kept whole. */
  readonly carried?: unknown;
}

export interface JobRecord {
  readonly schemaVersion: number;
  readonly pool: string;
  readonly tenant: string;
  readonly id: string;
  readonly requestId: string;
  readonly requestFingerprint: string;
  readonly spec: unknown;
  /** As the spec has it. */
  readonly priorityClass: PriorityClass;
  readonly advisories: readonly Advisory[];
  readonly state: JobState;
  readonly attempt: bigint;
  readonly blamedFailures: number;
  readonly fruitlessAttempts: number;
  readonly suspect: boolean;
  /** Empty unless the job is placed. */
  readonly group: string;
  readonly incarnation: string;
  readonly leaderEpoch: bigint;
  readonly units: readonly ImageUnit[];
  readonly failure: Failure | undefined;
  readonly modelDigest: string;
  readonly numericsClass: string;
  readonly simulated: boolean;
  readonly arrival: bigint;
  readonly createTimeMs: number;
  readonly startTimeMs: number | undefined;
  readonly endTimeMs: number | undefined;
  readonly expireTimeMs: number;
  /** Until its first start only; undefined if it may wait without end. */
  readonly queueDeadlineMs: number | undefined;
}

/** Which placement is meant. */
export interface Placement {
  readonly attempt: bigint;
  readonly group: string;
  readonly incarnation: string;
}

/** A placement of a named job, under a leader: what commands and reports carry. */
export interface Fence extends Placement {
  readonly pool: string;
  readonly tenant: string;
  readonly job: string;
  readonly leaderEpoch: bigint;
}

export function isActive(state: JobState): state is ActiveState {
  return state === "assigned" || state === "running" || state === "cancelling";
}

export function isEnded(state: JobState): state is EndedState {
  return state !== "queued" && !isActive(state);
}

export function isPlacedAt(record: JobRecord, placement: Placement): boolean {
  return (
    isActive(record.state) &&
    record.attempt === placement.attempt &&
    record.group === placement.group &&
    record.incarnation === placement.incarnation
  );
}

/** Key within a pool. */
export function entryKey(job: { readonly tenant: string; readonly id: string }): string {
  return `${job.tenant}.${job.id}`;
}

export function fenceOf(record: JobRecord, leaderEpoch: bigint): Fence {
  const { pool, tenant, id, attempt, group, incarnation } = record;
  return { pool, tenant, job: id, attempt, group, incarnation, leaderEpoch };
}

/** Order in the queue: arrival plus the patience of the class, then arrival. */
export function compareTurns(a: JobRecord, b: JobRecord): number {
  const turns = turnMs(a.createTimeMs, a.priorityClass) - turnMs(b.createTimeMs, b.priorityClass);
  if (turns !== 0) return turns;
  return a.arrival === b.arrival ? 0 : a.arrival < b.arrival ? -1 : 1;
}

/** Images still to be made. */
export function unitsLeft(record: Pick<JobRecord, "units">): readonly ImageUnit[] {
  return record.units.filter((unit) => unit.result === undefined);
}

/** Blobs that `before` points to and `after` no longer does. */
export function droppedBlobs(before: JobRecord, after: JobRecord): readonly BlobPointer[] {
  const kept = new Set(blobsOf(after).map((blob) => blob.key));
  return blobsOf(before).filter((blob) => !kept.has(blob.key));
}

export function blobsOf(record: JobRecord): readonly BlobPointer[] {
  return record.units.flatMap((unit) =>
    [unit.checkpoint, unit.result].filter((blob) => blob !== undefined),
  );
}
