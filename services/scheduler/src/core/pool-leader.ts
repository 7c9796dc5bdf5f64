/**
 * The leader of one pool: the only writer of its job records. Synchronous and without I/O:
 * `step(input, nowMs) -> effects`. All that lasts is in the records; the rest is rebuilt from
 * them when a leader begins.
 *
 *   input -> decide -> write record -> written -> reply, command, placement of what waits
 *
 * Invariants: a job has at most one write under way; nothing is answered or commanded before the
 * record that says so is written; a command is sent once, and one whose outcome is unknown is
 * fenced by the next attempt, never sent again.
 */
import { assert, unreachable } from "@fluxline/kernel/assert.ts";
import { AppError } from "@fluxline/kernel/error.ts";
import { type AdmitDraft, admit } from "./admission.ts";
import {
  type GroupEntry,
  type GroupRef,
  GroupTable,
  isOpen,
  speaksOurProtocol,
} from "./group-table.ts";
import { reconcileResidents } from "./heartbeat.ts";
import {
  blobsOf,
  droppedBlobs,
  type Fence,
  fenceOf,
  isActive,
  isEnded,
  isPlacedAt,
  type JobRecord,
  unitsLeft,
} from "./job.ts";
import {
  type Asker,
  decided,
  type JobEntry,
  JobTable,
  keyOf,
  type LoadedJob,
  occupying,
  type Pending,
  slotsNeeded,
  type Token,
  type Work,
} from "./job-table.ts";
import { transition } from "./job-transition.ts";
import type { Effect, Input, ReportMessage } from "./leader-protocol.ts";
import { Outbox } from "./outbox.ts";
import {
  ECHO_EVERY_MS,
  PURGES_PER_TICK_MAX,
  RETRY_DELAY_MS_FIRST,
  RETRY_DELAY_MS_MAX,
  STORE_HOLD_MS,
} from "./limits.ts";
import { decidePlacements, type OpenGroup, slotsOf, type WaitingJob } from "./placement.ts";

export interface LeaderOptions {
  readonly pool: string;
  readonly epoch: bigint;
  readonly queuedJobsMax: number;
}

export interface PoolFigures {
  readonly queuedJobs: number;
  readonly activeJobs: number;
  readonly groups: number;
}

export class PoolLeader {
  readonly #options: LeaderOptions;
  readonly #jobs = new JobTable();
  readonly #groups = new GroupTable();
  readonly #out = new Outbox();
  #lastEchoSentMs = 0;
  #storeHeldUntilMs = 0;
  #deposed = false;

  /** `loaded`: every record of the pool, as the store has them. */
  constructor(options: LeaderOptions, loaded: readonly LoadedJob[], nowMs: number) {
    this.#options = options;
    for (const job of loaded) this.#adopt(job, nowMs);
  }

  get figures(): PoolFigures {
    const queuedJobs = this.#jobs.queuedCount;
    const activeJobs = this.#jobs.liveCount - queuedJobs;
    return { queuedJobs, activeJobs, groups: this.#groups.size };
  }

  /** What this leader holds for true of a job; for tests and the simulator's checkers. */
  look(key: string): JobRecord | undefined {
    return this.#jobs.get(key)?.record;
  }

  step(input: Input, nowMs: number): readonly Effect[] {
    if (this.#deposed) return [{ kind: "step-down", why: "a newer leader" }];
    this.#take(input, nowMs);
    if (!this.#deposed) this.#place(nowMs);
    return this.#out.take();
  }

  #take(input: Input, nowMs: number): void {
    switch (input.kind) {
      case "admit":
        return this.#admit(input.draft, input.sizeBytes, input.token, nowMs);
      case "cancel":
        return this.#cancel(input.key, input.token, nowMs);
      case "register":
        return this.#register(input, nowMs);
      case "report":
        return this.#report(input.report, input.token, nowMs);
      case "heartbeat":
        return this.#heartbeat(input, nowMs);
      case "echo":
        return this.#groups.heardEcho(nowMs);
      case "tick":
        return this.#tick(nowMs);
      case "written":
        return this.#written(input.key, input.revision, nowMs);
      case "conflict":
        return this.#conflict(input.key, input.stored, nowMs);
      case "write-refused":
        return this.#writeRefused(input.key, input.error, nowMs);
      case "purged":
        return this.#purged(input.key);
      case "observed":
        return this.#observed(input.job, nowMs);
      case "assign-outcome":
        return this.#assignOutcome(input, nowMs);
      case "revoke-stale":
        return this.#revokeStale(input.fence, nowMs);
      default:
        return unreachable(input, "input");
    }
  }

  // --- jobs ------------------------------------------------------------------------------------

  #admit(draft: AdmitDraft, sizeBytes: number, token: Token, nowMs: number): void {
    const asker: Asker = { kind: "admit", token, fingerprint: draft.requestFingerprint };
    const key = keyOf({ tenant: draft.tenant, job: draft.id });
    const present = this.#jobs.get(key);
    if (present) return this.#work(present, { event: { kind: "look" }, asker }, nowMs);
    const outcome = admit(draft, {
      epoch: this.#options.epoch,
      pool: this.#options.pool,
      queuedJobs: this.#jobs.queuedCount,
      queuedJobsMax: this.#options.queuedJobsMax,
      recordBytes: this.#jobs.sizeBytes + sizeBytes,
      arrival: () => this.#jobs.drawArrival(),
    });
    if (outcome.kind === "refused") {
      this.#out.count("admission_refused");
      return this.#out.emit({ kind: "reply-admit", token, outcome });
    }
    const entry = this.#jobs.begin(key, sizeBytes, nowMs);
    this.#write(entry, outcome.record, { event: { kind: "look" }, asker });
  }

  #cancel(key: string, token: Token, nowMs: number): void {
    const entry = this.#jobs.get(key);
    const asker: Asker = { kind: "cancel", token };
    if (!entry) return this.#out.answerUnknown(asker);
    this.#work(entry, { event: { kind: "cancel-requested" }, asker }, nowMs);
  }

  #report(report: ReportMessage, token: Token, nowMs: number): void {
    if (report.fence.leaderEpoch > this.#options.epoch) return this.#stepDown("a newer leader");
    const entry = this.#jobs.get(keyOf(report.fence));
    const asker: Asker = { kind: "report", token };
    if (!entry) return this.#out.answerUnknown(asker);
    const event = { ...report.event, placement: report.fence };
    this.#work(entry, { event, asker }, nowMs);
  }

  /** Applies an event to a job, now or once its write is done. */
  #work(entry: JobEntry, work: Work, nowMs: number): void {
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
    const next = { ...result.record, leaderEpoch: this.#options.epoch };
    if (work.event.kind === "failed") entry.heldUntilMs = nowMs + retryDelayMs(next);
    this.#write(entry, next, work, result.revoke !== undefined);
  }

  #write(entry: JobEntry, record: JobRecord, work: Work, revoke = false): void {
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

  #written(key: string, revision: number, nowMs: number): void {
    const entry = this.#jobs.get(key);
    assert(entry?.pending?.record, `job ${key} was written without being asked`);
    const { pending, record: before } = entry;
    this.#jobs.settle(entry, revision);
    const record = entry.record;
    assert(record, `job ${key} has no record`);
    if (!before) this.#out.count("jobs_admitted");
    else {
      const blobs = droppedBlobs(before, record);
      if (blobs.length > 0) this.#out.emit({ kind: "delete-blobs", blobs });
      if (before.state !== record.state) this.#out.count("job_transitions", record.state);
    }
    if (pending.assign) this.#assign(entry, record, nowMs);
    if (pending.revoke) {
      entry.revokedMs = nowMs;
      const fence = { ...fenceOf(record, this.#options.epoch), ...placementOf(pending.revoke) };
      this.#out.emit({ kind: "revoke", fence });
    }
    this.#out.answer(pending.work.asker, entry, "recorded");
    this.#workOff(entry, nowMs);
  }

  #workOff(entry: JobEntry, nowMs: number): void {
    while (!entry.pending) {
      const work = entry.waiting.shift();
      if (!work) return;
      this.#work(entry, work, nowMs);
    }
  }

  /** The store has something else than we thought: take it, and decide anew. */
  #conflict(key: string, stored: LoadedJob | undefined, nowMs: number): void {
    const entry = this.#jobs.get(key);
    assert(entry?.pending, `job ${key} has a conflict without a write`);
    this.#out.count("write_conflicts");
    const { pending } = entry;
    this.#jobs.setPending(entry, undefined);
    if (stored) {
      if (!this.#adopt(stored, nowMs)) return;
      // A placement is decided anew from the queue.
      if (!pending.assign && pending.record) entry.waiting.unshift(pending.work);
      return this.#workOff(entry, nowMs);
    }
    this.#forget(entry, [pending.work, ...entry.waiting.splice(0)]);
  }

  #writeRefused(key: string, error: AppError, nowMs: number): void {
    const entry = this.#jobs.get(key);
    assert(entry?.pending, `job ${key} was refused without a write`);
    this.#out.count("writes_refused");
    this.#storeHeldUntilMs = nowMs + STORE_HOLD_MS;
    const { pending } = entry;
    this.#jobs.setPending(entry, undefined);
    this.#out.answerError(pending.work.asker, error);
    if (!entry.record) {
      for (const work of entry.waiting.splice(0)) this.#out.answerError(work.asker, error);
      return this.#jobs.remove(entry);
    }
    this.#workOff(entry, nowMs);
  }

  /** Somebody else's write that the watch told: a former leader's last one, at worst. */
  #observed(job: LoadedJob, nowMs: number): void {
    const entry = this.#jobs.get(`${job.record.tenant}.${job.record.id}`);
    // With a write of ours under way, its outcome tells what to think.
    if (entry && (entry.pending || entry.revision >= job.revision)) return;
    this.#adopt(job, nowMs);
  }

  /** False when the record shows that this leader has been replaced. */
  #adopt(job: LoadedJob, nowMs: number): boolean {
    const { record } = job;
    if (record.leaderEpoch > this.#options.epoch) {
      this.#stepDown("a newer leader");
      return false;
    }
    this.#jobs.adopt(job, nowMs);
    if (record.group !== "") this.#groups.expect(record, nowMs);
    return true;
  }

  #purged(key: string): void {
    const entry = this.#jobs.get(key);
    assert(entry?.pending && !entry.pending.record, `job ${key} was purged without being asked`);
    if (entry.record) this.#out.emit({ kind: "delete-blobs", blobs: blobsOf(entry.record) });
    this.#jobs.setPending(entry, undefined);
    this.#forget(entry, entry.waiting.splice(0));
  }

  #forget(entry: JobEntry, works: readonly Work[]): void {
    this.#jobs.remove(entry);
    for (const work of works) this.#out.answerUnknown(work.asker);
  }

  // --- groups ----------------------------------------------------------------------------------

  #register(input: Extract<Input, { kind: "register" }>, nowMs: number): void {
    const { facts, token } = input;
    const refuse = (error: AppError) =>
      this.#out.emit({ kind: "reply-register", token, outcome: { kind: "refused", error } });
    if (!speaksOurProtocol(facts)) {
      const { protocolVersionMin: low, protocolVersionMax: high } = facts;
      const text = `group ${facts.group} speaks protocol versions ${low} to ${high}, not ours`;
      return refuse(new AppError("failed_precondition", text, { reason: "PROTOCOL_VERSION" }));
    }
    const acquaintance = this.#groups.meet(facts, nowMs);
    switch (acquaintance.kind) {
      case "retired":
        return refuse(
          new AppError("failed_precondition", "this incarnation has been replaced: start anew", {
            reason: "INCARNATION_RETIRED",
          }),
        );
      case "too-many":
        return refuse(
          new AppError("resource_exhausted", "the pool has as many groups as it can have", {
            reason: "TOO_MANY_GROUPS",
          }),
        );
      case "replaced":
        this.#lost(acquaintance.ended, nowMs);
        break;
      default:
        break;
    }
    // Placement waits for the first heartbeat: only that says that the stages are ready.
    this.#out.emit({ kind: "store-pool", token, profile: input.profile, facts });
  }

  #heartbeat(input: Extract<Input, { kind: "heartbeat" }>, nowMs: number): void {
    const { facts } = input;
    if (facts.leaderEpoch > this.#options.epoch) return this.#stepDown("a newer leader");
    if (!speaksOurProtocol(facts)) return this.#out.count("heartbeats_ignored");
    const acquaintance = this.#groups.meet(facts, nowMs);
    if (acquaintance.kind === "retired" || acquaintance.kind === "too-many") {
      return this.#out.count("heartbeats_ignored");
    }
    if (acquaintance.kind === "replaced") this.#lost(acquaintance.ended, nowMs);
    const { entry } = acquaintance;
    entry.draining = facts.draining;
    entry.ready = facts.ready;
    entry.residents = facts.residents;
    const reconciled = reconcileResidents({
      group: entry,
      jobs: this.#jobs,
      provenSinceMs: this.#groups.provenSinceMs(nowMs),
      fence: (resident) => ({
        pool: this.#options.pool,
        ...resident,
        group: entry.group,
        incarnation: entry.incarnation,
        leaderEpoch: this.#options.epoch,
      }),
      nowMs,
    });
    for (const fence of reconciled.revoke) this.#out.emit({ kind: "revoke", fence });
    for (const job of reconciled.dropped) {
      this.#out.count("jobs_dropped_by_group");
      this.#lose(job, entry, nowMs);
    }
  }

  #lost(ended: GroupRef, nowMs: number): void {
    this.#out.count("groups_lost");
    for (const job of this.#jobs.placedOn(ended.group, ended.incarnation)) {
      this.#lose(job, ended, nowMs);
    }
  }

  #lose(job: JobEntry, group: GroupRef, nowMs: number): void {
    const attempt = decided(job)?.attempt ?? 0n;
    const placement = { attempt, group: group.group, incarnation: group.incarnation };
    this.#work(job, { event: { kind: "lost", placement }, asker: { kind: "nobody" } }, nowMs);
  }

  // --- placement -------------------------------------------------------------------------------

  #place(nowMs: number): void {
    if (nowMs < this.#storeHeldUntilMs || this.#jobs.queuedCount === 0) return;
    const groups = [...this.#groups.values()]
      .filter((group) => isOpen(group, nowMs))
      .map((group) => this.#openGroup(group))
      .filter((group) => !group.exclusive && group.load < group.residentsMax);
    // Looking through a long queue for nothing would be the cost of every input.
    if (groups.length === 0) return;
    const waiting = this.#jobs.queue(nowMs);
    for (const { key, group, incarnation } of decidePlacements(waiting.map(waitingJob), groups)) {
      const entry = this.#jobs.get(key);
      assert(entry, `job ${key} is placed but unknown`);
      const event = { kind: "placed", group, incarnation } as const;
      this.#work(entry, { event, asker: { kind: "nobody" } }, nowMs);
    }
  }

  #openGroup(group: GroupEntry): OpenGroup {
    const { facts } = group;
    assert(facts, `group ${group.group} is open but unknown`);
    let exclusive = false;
    let load = 0;
    for (const stray of group.strays.values()) if (stray.revokedMs > 0) load += 1;
    for (const entry of this.#jobs.placedOn(group.group, group.incarnation)) {
      const record = occupying(entry);
      if (!record) continue;
      exclusive ||= record.suspect;
      load += slotsOf({ units: slotsNeeded(record) }, facts);
    }
    const { incarnation, numericsClass, residentsMax } = facts;
    return { group: group.group, incarnation, numericsClass, residentsMax, load, exclusive };
  }

  #assign(entry: JobEntry, record: JobRecord, nowMs: number): void {
    entry.seenMs = nowMs;
    entry.revokedMs = 0;
    // The group may have been lost while the record was written; then the job is lost too.
    if (this.#groups.get(record.group)?.incarnation !== record.incarnation) {
      return this.#lose(entry, record, nowMs);
    }
    this.#out.emit({
      kind: "assign",
      key: entry.key,
      fence: fenceOf(record, this.#options.epoch),
      record,
      units: unitsLeft(record),
      alone: record.suspect,
    });
  }

  #assignOutcome(input: Extract<Input, { kind: "assign-outcome" }>, nowMs: number): void {
    const { fence, outcome } = input;
    const entry = this.#jobs.get(keyOf(fence));
    const record = entry?.record;
    this.#out.count("assignments", outcome.kind);
    if (!entry || !record || !isPlacedAt(record, fence)) return;
    // A report came before the reply: the group has it, whatever the reply says.
    if (record.state === "running") return;
    const asker: Asker = { kind: "nobody" };
    switch (outcome.kind) {
      case "accepted":
        entry.seenMs = nowMs;
        return;
      case "refused": {
        const { failure } = outcome;
        const event = { kind: "refused", failure, placement: fence } as const;
        return this.#work(entry, { event, asker }, nowMs);
      }
      case "not-taken":
        this.#groups.hold(fence.group, nowMs);
        return this.#work(entry, { event: { kind: "bounced", placement: fence }, asker }, nowMs);
      case "unknown":
        this.#groups.hold(fence.group, nowMs);
        this.#out.emit({ kind: "revoke", fence });
        return this.#work(entry, { event: { kind: "lost", placement: fence }, asker }, nowMs);
      default:
        return unreachable(outcome, "outcome");
    }
  }

  /** The group does not hold what it was to stop: a cancel need not wait for it. */
  #revokeStale(fence: Fence, nowMs: number): void {
    const entry = this.#jobs.get(keyOf(fence));
    const record = entry?.record;
    if (!entry || record?.state !== "cancelling" || !isPlacedAt(record, fence)) return;
    this.#work(
      entry,
      { event: { kind: "lost", placement: fence }, asker: { kind: "nobody" } },
      nowMs,
    );
  }

  // --- time ------------------------------------------------------------------------------------

  #tick(nowMs: number): void {
    if (nowMs - this.#lastEchoSentMs >= ECHO_EVERY_MS) {
      this.#lastEchoSentMs = nowMs;
      this.#out.emit({ kind: "echo" });
    }
    for (const group of this.#groups.silent(nowMs)) {
      this.#groups.forget(group);
      this.#lost(group, nowMs);
    }
    for (const entry of this.#jobs.live()) {
      this.#endOverdue(entry, nowMs);
      this.#loseStranded(entry, nowMs);
    }
    this.#purgeExpired(nowMs);
  }

  #endOverdue(entry: JobEntry, nowMs: number): void {
    const { record } = entry;
    if (entry.pending || !record) return;
    const asker: Asker = { kind: "nobody" };
    if (nowMs >= record.expireTimeMs) {
      this.#work(entry, { event: { kind: "life-ended" }, asker }, nowMs);
    } else if (record.state === "queued" && nowMs >= (record.queueDeadlineMs ?? Infinity)) {
      this.#work(entry, { event: { kind: "queue-timed-out" }, asker }, nowMs);
    }
  }

  /** On a group that is not there: the write that said so was refused, or another leader's. */
  #loseStranded(entry: JobEntry, nowMs: number): void {
    const { record } = entry;
    if (entry.pending || !record || !isActive(record.state)) return;
    if (nowMs < this.#storeHeldUntilMs) return;
    if (this.#groups.get(record.group)?.incarnation === record.incarnation) return;
    this.#lose(entry, record, nowMs);
  }

  #purgeExpired(nowMs: number): void {
    let purges = 0;
    for (const entry of this.#jobs.values()) {
      const { record } = entry;
      if (entry.pending || !record || !isEnded(record.state)) continue;
      if (nowMs < record.expireTimeMs) continue;
      const work: Work = { event: { kind: "look" }, asker: { kind: "nobody" } };
      const pending = { record: undefined, work, revoke: undefined, assign: false };
      this.#jobs.setPending(entry, pending);
      this.#out.emit({ kind: "purge", key: entry.key, revision: entry.revision });
      purges += 1;
      if (purges >= PURGES_PER_TICK_MAX) return;
    }
  }

  #stepDown(why: string): void {
    this.#deposed = true;
    this.#out.emit({ kind: "step-down", why });
  }
}

function waitingJob(entry: JobEntry): WaitingJob {
  const { record } = entry;
  assert(record, `job ${entry.key} waits without a record`);
  const units = unitsLeft(record);
  const resumes = units.some((unit) => unit.checkpoint !== undefined);
  return {
    key: entry.key,
    units: units.length,
    suspect: record.suspect,
    numericsClass: resumes ? record.numericsClass : "",
  };
}

function retryDelayMs({ fruitlessAttempts }: JobRecord): number {
  const doublings = Math.max(fruitlessAttempts - 1, 0);
  return Math.min(RETRY_DELAY_MS_FIRST * 2 ** doublings, RETRY_DELAY_MS_MAX);
}

function placementOf(record: { attempt: bigint; group: string; incarnation: string }) {
  const { attempt, group, incarnation } = record;
  return { attempt, group, incarnation };
}
