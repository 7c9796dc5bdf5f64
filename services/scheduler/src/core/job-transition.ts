/**
 * The state machine of one job, as a pure function; job-transition.test.ts holds its table.
 *
 *   queued --placed--> assigned --started--> running --finished--> succeeded
 *     ^                   |                     |
 *     +--- bounced, lost, released, failed -----+     (failed for good, or too often: failed)
 *   queued --cancel--> cancelled;  assigned, running --cancel--> cancelling --boundary--> cancelled
 *   queued --queue timeout--> expired;  any live one --end of life--> expired
 *   queued --the pool serves another model--> failed
 *
 * What speaks of a placement that is not the job's present one is ignored as stale: the attempt
 * grows with each placement, so nothing that was fenced can come back.
 */
import { unreachable } from "@fluxline/kernel/assert.ts";
import type { Advisory } from "@fluxline/kernel/image-request.ts";
import {
  type EndedState,
  type Failure,
  type ImageUnit,
  isActive,
  isEnded,
  isPlacedAt,
  type JobRecord,
  type Placement,
  unitsLeft,
} from "./job.ts";
import { BLAMED_FAILURES_MAX, FRUITLESS_ATTEMPTS_MAX } from "./limits.ts";

/** What a group reports, or what the leader concludes about it. */
export type PlacementEvent =
  /** The group certainly did not take it: full, draining, gone, another incarnation. */
  | { readonly kind: "bounced" }
  /** The group cannot do it at all. */
  | { readonly kind: "refused"; readonly failure: Failure }
  /** The group is gone, or whether it took the job is unknown: what runs there is fenced. */
  | { readonly kind: "lost" }
  | {
      readonly kind: "started";
      readonly numericsClass: string;
      readonly simulated: boolean;
      readonly restarted: boolean;
      readonly advisories: readonly Advisory[];
    }
  | { readonly kind: "checkpointed"; readonly units: readonly ImageUnit[] }
  | { readonly kind: "unit-finished"; readonly units: readonly ImageUnit[] }
  | { readonly kind: "finished"; readonly units: readonly ImageUnit[] }
  | {
      readonly kind: "failed";
      readonly failure: Failure;
      readonly blamed: boolean;
      readonly suspect: boolean;
      readonly retryable: boolean;
    }
  | { readonly kind: "released"; readonly units: readonly ImageUnit[] };

export type JobEvent =
  | { readonly kind: "placed"; readonly group: string; readonly incarnation: string }
  | (PlacementEvent & { readonly placement: Placement })
  | { readonly kind: "cancel-requested" }
  | { readonly kind: "queue-timed-out" }
  /** No group serves its model any more; the pool serves the one named here. */
  | { readonly kind: "model-changed"; readonly servedDigest: string }
  | { readonly kind: "life-ended" };

export type Ignored =
  /** It speaks of a placement that is not the present one. */
  | "stale"
  /** It happened already: hearing it twice is fine. */
  | "already"
  /** It has no meaning in this state. */
  | "not-applicable";

export type Transition =
  | {
      readonly kind: "changed";
      readonly record: JobRecord;
      /** The placement that must be told to stop. */
      readonly revoke: Placement | undefined;
    }
  | { readonly kind: "ignored"; readonly why: Ignored };

export function transition(record: JobRecord, event: JobEvent, nowMs: number): Transition {
  switch (event.kind) {
    case "placed":
      return place(record, event.group, event.incarnation);
    case "cancel-requested":
      return cancel(record, nowMs);
    case "queue-timed-out":
      return queueTimedOut(record, nowMs);
    case "model-changed":
      return modelChanged(record, event.servedDigest, nowMs);
    case "life-ended":
      return lifeEnded(record, nowMs);
    default:
      return atPlacement(record, event, nowMs);
  }
}

function place(record: JobRecord, group: string, incarnation: string): Transition {
  if (record.state !== "queued") return ignored("not-applicable");
  return changed({
    ...record,
    state: "assigned",
    attempt: record.attempt + 1n,
    group,
    incarnation,
  });
}

function cancel(record: JobRecord, nowMs: number): Transition {
  switch (record.state) {
    case "queued":
      return changed(ended(record, "cancelled", nowMs));
    case "assigned":
    case "running":
      return changed({ ...record, state: "cancelling" }, record);
    default:
      return ignored("already");
  }
}

function queueTimedOut(record: JobRecord, nowMs: number): Transition {
  if (record.state !== "queued") return ignored("not-applicable");
  const waitedMs = nowMs - record.createTimeMs;
  const message =
    `waited ${Math.round(waitedMs / 1000)} s for a replica group, longer than its queue_timeout: ` +
    "give it more time, or add groups to the pool";
  const failure: Failure = { code: "deadline_exceeded", reason: "QUEUE_TIMEOUT", message };
  return changed(ended({ ...record, failure }, "expired", nowMs));
}

function modelChanged(record: JobRecord, servedDigest: string, nowMs: number): Transition {
  if (record.state !== "queued") return ignored("not-applicable");
  const message =
    `was admitted for model ${record.modelDigest}, and pool ${record.pool} now serves ` +
    `${servedDigest}: send the request again`;
  const failure: Failure = { code: "failed_precondition", reason: "MODEL_CHANGED", message };
  return changed(ended({ ...record, failure }, "failed", nowMs));
}

function lifeEnded(record: JobRecord, nowMs: number): Transition {
  if (isEnded(record.state)) return ignored("already");
  const message = "its expire_time came before it was done: choose a later one";
  const failure: Failure = { code: "deadline_exceeded", reason: "EXPIRE_TIME_PASSED", message };
  const next = ended({ ...record, failure }, "expired", nowMs);
  return changed(next, isActive(record.state) ? record : undefined);
}

function atPlacement(
  record: JobRecord,
  event: PlacementEvent & { readonly placement: Placement },
  nowMs: number,
): Transition {
  if (isEnded(record.state) && record.attempt === event.placement.attempt) {
    return ignored("already");
  }
  if (!isPlacedAt(record, event.placement)) return ignored("stale");
  if (record.state === "cancelling") return whileCancelling(record, event, nowMs);
  switch (event.kind) {
    case "bounced":
      if (record.state === "running") return ignored("not-applicable");
      return changed(queued(record));
    case "refused":
      if (record.state === "running") return ignored("not-applicable");
      return changed(ended({ ...record, failure: event.failure }, "failed", nowMs));
    case "lost":
      return changed(queuedAgain(record, nowMs));
    case "started":
      if (record.state === "running") return ignored("already");
      return changed(started(record, event, nowMs));
    case "checkpointed":
    case "unit-finished":
      return changed(withUnits(running(record, nowMs), event.units));
    case "finished":
      return changed(finished(record, event.units, nowMs));
    case "failed":
      return changed(failed(record, event, nowMs));
    case "released":
      return changed(queuedAgain(withUnits(record, event.units), nowMs));
    default:
      return unreachable(event, "event");
  }
}

/** Whatever ends the placement now ends the job; nothing brings it back. */
function whileCancelling(record: JobRecord, event: PlacementEvent, nowMs: number): Transition {
  switch (event.kind) {
    case "started":
    case "checkpointed":
    case "unit-finished":
      return ignored("already");
    case "bounced":
    case "refused":
    case "lost":
    case "finished":
    case "failed":
      return changed(ended(record, "cancelled", nowMs));
    case "released":
      return changed(stoppedAt(ended(record, "cancelled", nowMs), event.units));
    default:
      return unreachable(event, "event");
  }
}

/** For people: how far the images of a job were that nobody goes on with. */
function stoppedAt(record: JobRecord, reported: readonly ImageUnit[]): JobRecord {
  const steps = new Map(reported.map(({ index, checkpointStep }) => [index, checkpointStep]));
  const units = record.units.map((unit) => {
    const checkpointStep = steps.get(unit.index) ?? 0;
    return unit.result === undefined ? { ...unit, checkpointStep } : unit;
  });
  return { ...record, units };
}

function started(
  record: JobRecord,
  event: Extract<PlacementEvent, { kind: "started" }>,
  nowMs: number,
): JobRecord {
  const known = new Set(record.advisories.map((advisory) => advisory.reason));
  const added = event.advisories.filter((advisory) => !known.has(advisory.reason));
  const units = event.restarted ? record.units.map(withoutCheckpoint) : record.units;
  return {
    ...running(record, nowMs),
    units,
    numericsClass: event.numericsClass,
    simulated: event.simulated,
    advisories: [...record.advisories, ...added],
  };
}

function running(record: JobRecord, nowMs: number): JobRecord {
  const startTimeMs = record.startTimeMs ?? nowMs;
  return { ...record, state: "running", startTimeMs, queueDeadlineMs: undefined };
}

function finished(record: JobRecord, units: readonly ImageUnit[], nowMs: number): JobRecord {
  const next = withUnits(running(record, nowMs), units);
  const missing = next.units.filter((unit) => unit.result === undefined);
  if (missing.length === 0) return ended(next, "succeeded", nowMs);
  const indices = missing.map((unit) => unit.index).join(", ");
  const message = `the group reported the end of the job without image ${indices}`;
  return queuedAgain(next, nowMs, { code: "internal", reason: "RESULT_INCOMPLETE", message });
}

function failed(
  record: JobRecord,
  event: Extract<PlacementEvent, { kind: "failed" }>,
  nowMs: number,
): JobRecord {
  // A suspect runs alone, so when its runner dies again nobody else can be the cause.
  const blamed = event.blamed || (event.suspect && record.suspect);
  const blamedFailures = record.blamedFailures + (blamed ? 1 : 0);
  const suspect = record.suspect || blamed || event.suspect;
  const next = { ...record, blamedFailures, suspect };
  if (!event.retryable || blamedFailures >= BLAMED_FAILURES_MAX) {
    return ended({ ...next, failure: event.failure }, "failed", nowMs);
  }
  return queuedAgain(next, nowMs, event.failure);
}

/**
 * Back in the queue at its old place; an end after too many attempts that brought nothing. With
 * every image stored there is nothing to queue for: the group was lost before it said so.
 */
function queuedAgain(record: JobRecord, nowMs: number, last?: Failure): JobRecord {
  if (unitsLeft(record).length === 0) return ended(record, "succeeded", nowMs);
  const fruitlessAttempts = record.fruitlessAttempts + 1;
  const next = { ...record, fruitlessAttempts };
  if (fruitlessAttempts < FRUITLESS_ATTEMPTS_MAX) return queued(next);
  return ended({ ...next, failure: exhausted(fruitlessAttempts, last) }, "failed", nowMs);
}

/** The last attempt's own reason, if it gave one. */
function exhausted(attempts: number, last: Failure | undefined): Failure {
  const message = `was given to a replica group ${attempts} times in a row without finishing a step`;
  if (last) return { ...last, message: `${message}: ${last.message}`, carried: undefined };
  return {
    code: "aborted",
    reason: "ATTEMPTS_EXHAUSTED",
    message: `${message}, and each time the group was lost: look at the groups' logs`,
  };
}

function queued(record: JobRecord): JobRecord {
  return { ...record, state: "queued", group: "", incarnation: "" };
}

function ended(record: JobRecord, state: EndedState, nowMs: number): JobRecord {
  return {
    ...record,
    state,
    group: "",
    incarnation: "",
    suspect: false,
    endTimeMs: nowMs,
    queueDeadlineMs: undefined,
    units: record.units.map(withoutCheckpoint),
  };
}

/** Takes over results and newer checkpoints; progress ends the row of fruitless attempts. */
function withUnits(record: JobRecord, reported: readonly ImageUnit[]): JobRecord {
  const byIndex = new Map(reported.map((unit) => [unit.index, unit]));
  let progressed = false;
  const units = record.units.map((unit) => {
    const news = byIndex.get(unit.index);
    if (!news || unit.result !== undefined) return unit;
    if (news.result !== undefined) {
      progressed = true;
      return { ...withoutCheckpoint(unit), result: news.result, image: news.image };
    }
    if (news.checkpoint === undefined || news.checkpointStep <= unit.checkpointStep) return unit;
    progressed = true;
    return { ...unit, checkpoint: news.checkpoint, checkpointStep: news.checkpointStep };
  });
  return { ...record, units, fruitlessAttempts: progressed ? 0 : record.fruitlessAttempts };
}

function withoutCheckpoint(unit: ImageUnit): ImageUnit {
  if (unit.checkpoint === undefined && unit.checkpointStep === 0) return unit;
  return { ...unit, checkpoint: undefined, checkpointStep: 0 };
}

function changed(record: JobRecord, revoke?: Placement): Transition {
  return { kind: "changed", record, revoke };
}

function ignored(why: Ignored): Transition {
  return { kind: "ignored", why };
}
