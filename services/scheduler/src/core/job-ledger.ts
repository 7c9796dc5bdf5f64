/**
 * The records of one pool's jobs, and what is decided about them: each decision is written first,
 * and what follows from it (replies, commands, deletions) comes when the store has it.
 *
 *   work -> transition -> write -> written -> answer, command; then what waited
 *                               -> conflict -> take what is stored, decide anew
 *                               -> refused  -> as before, told to who asked
 *
 * A job has at most one write under way; what comes meanwhile waits behind it, in order.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { AppError } from "@fluxline/kernel/error.ts";
import { blobsOf, droppedBlobs, entryKey, fenceOf, isActive, type JobRecord } from "./job.ts";
import type { JobEntry, JobTable, LoadedJob, Pending, Work } from "./job-table.ts";
import { transition } from "./job-transition.ts";
import type { Input } from "./leader-protocol.ts";
import { RETRY_DELAY_MS_FIRST, RETRY_DELAY_MS_MAX, STORE_HOLD_MS } from "./limits.ts";
import type { Outbox } from "./outbox.ts";

export interface LedgerHooks {
  /** The record that places the job is written: now it may be commanded. */
  placed(entry: JobEntry, record: JobRecord, nowMs: number): void;
  /** A record was taken from the store. */
  adopted(record: JobRecord, nowMs: number): void;
  /** A record shows that this leader has been replaced. */
  newerLeader(): void;
}

export interface LedgerOptions {
  readonly jobs: JobTable;
  readonly out: Outbox;
  readonly epoch: bigint;
  readonly hooks: LedgerHooks;
}

export class JobLedger {
  readonly #jobs: JobTable;
  readonly #out: Outbox;
  readonly #epoch: bigint;
  readonly #hooks: LedgerHooks;
  #heldUntilMs = 0;

  constructor({ jobs, out, epoch, hooks }: LedgerOptions) {
    this.#jobs = jobs;
    this.#out = out;
    this.#epoch = epoch;
    this.#hooks = hooks;
  }

  /** The store has just refused something: nothing that can wait is written for a moment. */
  isHeld(nowMs: number): boolean {
    return nowMs < this.#heldUntilMs;
  }

  /** Applies an event to a job, now or once its write is done. */
  work(entry: JobEntry, work: Work, nowMs: number): void {
    if (entry.pending) {
      if (this.#jobs.wait(entry, work)) return;
      this.#out.count("job_inputs_dropped");
      return this.#out.drop(work.asker);
    }
    const { record } = entry;
    if (!record) return this.#out.answerUnknown(work.asker);
    if (work.event.kind === "look") return this.#out.answer(work.asker, entry, "recorded");
    const result = transition(record, work.event, nowMs);
    if (result.kind === "ignored") {
      if (result.why === "stale") this.#out.count("stale_reports");
      return this.#out.answer(work.asker, entry, result.why === "already" ? "recorded" : "stale");
    }
    const next = { ...result.record, leaderEpoch: this.#epoch };
    if (work.event.kind === "failed") entry.heldUntilMs = nowMs + retryDelayMs(next);
    this.write(entry, next, work, result.revoke !== undefined);
  }

  write(entry: JobEntry, record: JobRecord, work: Work, revoke = false): void {
    const assign = work.event.kind === "placed";
    const pending: Pending = {
      record,
      work,
      revoke: revoke ? entry.record : undefined,
      assign,
    };
    this.#jobs.setPending(entry, pending);
    this.#out.emit({ kind: "write", key: entry.key, record, revision: entry.revision });
  }

  written(input: Extract<Input, { kind: "written" }>, nowMs: number): void {
    const { key, revision, sizeBytes } = input;
    const entry = this.#jobs.get(key);
    assert(entry?.pending?.record, `job ${key} was written without being asked`);
    const { pending, record: before } = entry;
    this.#jobs.settle(entry, revision, sizeBytes);
    const record = entry.record;
    assert(record, `job ${key} has no record`);
    if (!before) this.#out.count("jobs_admitted");
    else {
      const blobs = droppedBlobs(before, record);
      if (blobs.length > 0) this.#out.emit({ kind: "delete-blobs", blobs });
      if (before.state !== record.state) this.#out.count("job_transitions", record.state);
    }
    if (pending.assign) this.#hooks.placed(entry, record, nowMs);
    if (pending.revoke) {
      entry.revokedMs = nowMs;
      const fence = { ...fenceOf(record, this.#epoch), ...placementOf(pending.revoke) };
      this.#out.emit({ kind: "revoke", fence });
    }
    this.#out.answer(pending.work.asker, entry, "recorded", before === undefined);
    this.#workOff(entry, nowMs);
  }

  #workOff(entry: JobEntry, nowMs: number): void {
    while (!entry.pending) {
      const work = entry.waiting.shift();
      if (!work) return;
      this.work(entry, work, nowMs);
    }
  }

  /** The store has something else than we thought: take it, and decide anew. */
  conflict(key: string, stored: LoadedJob | undefined, nowMs: number): void {
    const entry = this.#jobs.get(key);
    assert(entry?.pending, `job ${key} has a conflict without a write`);
    this.#out.count("write_conflicts");
    const { pending } = entry;
    this.#jobs.setPending(entry, undefined);
    if (stored) {
      if (!this.adopt(stored, nowMs)) return;
      // A placement is decided anew from the queue.
      if (!pending.assign && pending.record) entry.waiting.unshift(pending.work);
      return this.#workOff(entry, nowMs);
    }
    this.#forget(entry, [pending.work, ...entry.waiting.splice(0)]);
  }

  writeRefused(key: string, error: AppError, nowMs: number): void {
    const entry = this.#jobs.get(key);
    assert(entry?.pending, `job ${key} was refused without a write`);
    this.#out.count("writes_refused");
    // A record that cannot be read is no trouble of the store.
    if (error.code !== "data_loss") this.#heldUntilMs = nowMs + STORE_HOLD_MS;
    const { pending } = entry;
    this.#jobs.setPending(entry, undefined);
    this.#out.answerError(pending.work.asker, error);
    if (!entry.record) {
      for (const work of entry.waiting.splice(0)) this.#out.answerError(work.asker, error);
      return this.#jobs.remove(entry);
    }
    // Its end cannot be written, and in a full store only purges make room.
    const overdue = pending.work.event.kind === "life-ended" && error.code !== "unavailable";
    if (overdue) return this.purge(entry);
    this.#workOff(entry, nowMs);
  }

  purge(entry: JobEntry): void {
    const { record } = entry;
    assert(record, `job ${entry.key} has no record to purge`);
    const revoke = isActive(record.state) ? record : undefined;
    const work: Work = { event: { kind: "look" }, asker: { kind: "nobody" } };
    this.#jobs.setPending(entry, { record: undefined, work, revoke, assign: false });
    this.#out.emit({ kind: "purge", key: entry.key, revision: entry.revision });
  }

  /** Somebody else's write that the watch told: a former leader's last one, at worst. */
  observed(job: LoadedJob, nowMs: number): void {
    const entry = this.#jobs.get(entryKey(job.record));
    // With a write of ours under way, its outcome tells what to think.
    if (entry && (entry.pending || entry.revision >= job.revision)) return;
    this.adopt(job, nowMs);
  }

  /** False when the record shows that this leader has been replaced. */
  adopt(job: LoadedJob, nowMs: number): boolean {
    const { record } = job;
    if (record.leaderEpoch > this.#epoch) {
      this.#hooks.newerLeader();
      return false;
    }
    this.#jobs.adopt(job, nowMs);
    this.#hooks.adopted(record, nowMs);
    return true;
  }

  purged(key: string): void {
    const entry = this.#jobs.get(key);
    assert(entry?.pending && !entry.pending.record, `job ${key} was purged without being asked`);
    const { record, pending } = entry;
    if (record) this.#out.emit({ kind: "delete-blobs", blobs: blobsOf(record) });
    if (record && pending.revoke) {
      this.#out.emit({ kind: "revoke", fence: fenceOf(record, this.#epoch) });
    }
    this.#jobs.setPending(entry, undefined);
    this.#forget(entry, entry.waiting.splice(0));
  }

  #forget(entry: JobEntry, works: readonly Work[]): void {
    this.#jobs.remove(entry);
    for (const work of works) this.#out.answerUnknown(work.asker);
  }
}

function retryDelayMs({ fruitlessAttempts }: JobRecord): number {
  const doublings = Math.max(fruitlessAttempts - 1, 0);
  return Math.min(RETRY_DELAY_MS_FIRST * 2 ** doublings, RETRY_DELAY_MS_MAX);
}

function placementOf(record: { attempt: bigint; group: string; incarnation: string }) {
  const { attempt, group, incarnation } = record;
  return { attempt, group, incarnation };
}
