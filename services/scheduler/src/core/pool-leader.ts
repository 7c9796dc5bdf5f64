/**
 * The leader of one pool: the only writer of its job records. Synchronous and without I/O:
 * `step(input, nowMs) -> effects`. All that lasts is in the records; the rest is rebuilt from
 * them when a leader begins. The records and their writes are in job-ledger.ts.
 *
 *   input -> decide -> write record -> written -> reply, command, placement of what waits
 *
 * Invariants: a job has at most one write under way; nothing is answered or commanded before the
 * record that says so is written; a command is sent once, and one whose outcome is unknown is
 * fenced by the next attempt, never sent again.
 */
import { assert, unreachable } from "@fluxline/kernel/assert.ts";
import { AppError } from "@fluxline/kernel/error.ts";
import { admit } from "./admission.ts";
import {
  type GroupEntry,
  type GroupRef,
  GroupTable,
  isOpen,
  speaksOurProtocol,
} from "./group-table.ts";
import { reconcileResidents } from "./heartbeat.ts";
import { JobLedger } from "./job-ledger.ts";
import {
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
  slotsNeeded,
  type Token,
} from "./job-table.ts";
import type { Effect, Input, ReportMessage } from "./leader-protocol.ts";
import { ModelAbsence } from "./model-absence.ts";
import { Outbox } from "./outbox.ts";
import { ECHO_EVERY_MS, PURGES_PER_TICK_MAX } from "./limits.ts";
import { decidePlacements, type OpenGroup, slotsOf, type WaitingJob } from "./placement.ts";
import { roomOf } from "./record-room.ts";

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
  readonly #ledger: JobLedger;
  readonly #absence = new ModelAbsence();
  #lastEchoSentMs = 0;
  #deposed = false;

  /** `loaded`: every record of the pool, as the store has them. */
  constructor(options: LeaderOptions, loaded: readonly LoadedJob[], nowMs: number) {
    this.#options = options;
    this.#ledger = new JobLedger({
      jobs: this.#jobs,
      out: this.#out,
      epoch: options.epoch,
      hooks: {
        placed: (entry, record, atMs) => this.#assign(entry, record, atMs),
        adopted: (record, atMs) => {
          if (record.group !== "") this.#groups.expect(record, atMs);
        },
        newerLeader: () => this.#stepDown("a newer leader"),
      },
    });
    for (const job of loaded) this.#ledger.adopt(job, nowMs);
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
        return this.#admit(input, nowMs);
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
        return this.#ledger.written(input, nowMs);
      case "conflict":
        return this.#ledger.conflict(input.key, input.stored, nowMs);
      case "write-refused":
        return this.#ledger.writeRefused(input.key, input.error, nowMs);
      case "purged":
        return this.#ledger.purged(input.key);
      case "observed":
        return this.#ledger.observed(input.job, nowMs);
      case "assign-outcome":
        return this.#assignOutcome(input, nowMs);
      case "revoke-stale":
        return this.#revokeStale(input.fence, nowMs);
      default:
        return unreachable(input, "input");
    }
  }

  // --- jobs ------------------------------------------------------------------------------------

  #admit(input: Extract<Input, { kind: "admit" }>, nowMs: number): void {
    const { draft, token, recordBytesMax } = input;
    const asker: Asker = { kind: "admit", token, fingerprint: draft.requestFingerprint };
    const key = keyOf({ tenant: draft.tenant, job: draft.id });
    const present = this.#jobs.get(key);
    if (present) return this.#ledger.work(present, { event: { kind: "look" }, asker }, nowMs);
    const roomBytes = roomOf({ ...draft, state: "queued" }, input.sizeBytes);
    const outcome = admit(draft, {
      epoch: this.#options.epoch,
      pool: this.#options.pool,
      queuedJobs: this.#jobs.queuedCount,
      queuedJobsMax: this.#options.queuedJobsMax,
      recordBytes: this.#jobs.roomBytes + roomBytes,
      recordBytesMax,
      arrival: () => this.#jobs.drawArrival(),
    });
    if (outcome.kind === "refused") {
      this.#out.count("admission_refused");
      return this.#out.emit({ kind: "reply-admit", token, outcome });
    }
    const entry = this.#jobs.begin(key, roomBytes, nowMs);
    this.#ledger.write(entry, outcome.record, { event: { kind: "look" }, asker });
  }

  #cancel(key: string, token: Token, nowMs: number): void {
    const entry = this.#jobs.get(key);
    const asker: Asker = { kind: "cancel", token };
    if (!entry) return this.#out.answerUnknown(asker);
    this.#ledger.work(entry, { event: { kind: "cancel-requested" }, asker }, nowMs);
  }

  #report(report: ReportMessage, token: Token, nowMs: number): void {
    if (report.fence.leaderEpoch > this.#options.epoch) return this.#stepDown("a newer leader");
    const entry = this.#jobs.get(keyOf(report.fence));
    const asker: Asker = { kind: "report", token };
    if (!entry) return this.#out.answerUnknown(asker);
    const event = { ...report.event, placement: report.fence };
    this.#ledger.work(entry, { event, asker }, nowMs);
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
    this.#ledger.work(
      job,
      { event: { kind: "lost", placement }, asker: { kind: "nobody" } },
      nowMs,
    );
  }

  // --- placement -------------------------------------------------------------------------------

  #place(nowMs: number): void {
    if (this.#ledger.isHeld(nowMs) || this.#jobs.queuedCount === 0) return;
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
      this.#ledger.work(entry, { event, asker: { kind: "nobody" } }, nowMs);
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
    assert(group.modelDigest !== undefined, `group ${group.group} is open without a model`);
    const { incarnation, modelDigest } = group;
    const { numericsClass, residentsMax } = facts;
    const models = { modelDigest, numericsClass };
    return { group: group.group, incarnation, ...models, residentsMax, load, exclusive };
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
    // Decided, not stored: the group's first report may be on its way to the store.
    const record = entry && decided(entry);
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
        return this.#ledger.work(entry, { event, asker }, nowMs);
      }
      case "not-taken":
        this.#groups.hold(fence.group, nowMs);
        return this.#ledger.work(
          entry,
          { event: { kind: "bounced", placement: fence }, asker },
          nowMs,
        );
      case "unknown":
        this.#groups.hold(fence.group, nowMs);
        this.#out.emit({ kind: "revoke", fence });
        return this.#ledger.work(
          entry,
          { event: { kind: "lost", placement: fence }, asker },
          nowMs,
        );
      default:
        return unreachable(outcome, "outcome");
    }
  }

  /** The group does not hold what it was to stop: a cancel need not wait for it. */
  #revokeStale(fence: Fence, nowMs: number): void {
    const entry = this.#jobs.get(keyOf(fence));
    const record = entry?.record;
    if (!entry || record?.state !== "cancelling" || !isPlacedAt(record, fence)) return;
    this.#ledger.work(
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
    this.#endModelless(nowMs);
    this.#purgeExpired(nowMs);
  }

  /** Waiting jobs whose model is gone from the pool. */
  #endModelless(nowMs: number): void {
    const waiting = this.#jobs.live().filter(({ pending, record }) => {
      return !pending && record?.state === "queued";
    });
    const wanted = new Set(waiting.map(({ record }) => record?.modelDigest ?? ""));
    const gone = this.#absence.gone(wanted, (digest) => this.#groups.hasModel(digest), nowMs);
    const servedDigest = this.#groups.latestModel;
    if (gone.size === 0 || servedDigest === undefined || this.#ledger.isHeld(nowMs)) return;
    for (const entry of waiting) {
      const digest = entry.record?.modelDigest ?? "";
      if (!gone.has(digest) || digest === servedDigest) continue;
      const event = { kind: "model-changed", servedDigest } as const;
      this.#ledger.work(entry, { event, asker: { kind: "nobody" } }, nowMs);
    }
  }

  #endOverdue(entry: JobEntry, nowMs: number): void {
    const { record } = entry;
    if (entry.pending || !record) return;
    const asker: Asker = { kind: "nobody" };
    if (nowMs >= record.expireTimeMs) {
      this.#ledger.work(entry, { event: { kind: "life-ended" }, asker }, nowMs);
    } else if (record.state === "queued" && nowMs >= (record.queueDeadlineMs ?? Infinity)) {
      this.#ledger.work(entry, { event: { kind: "queue-timed-out" }, asker }, nowMs);
    }
  }

  /** On a group that is not there: the write that said so was refused, or another leader's. */
  #loseStranded(entry: JobEntry, nowMs: number): void {
    const { record } = entry;
    if (entry.pending || !record || !isActive(record.state)) return;
    if (this.#ledger.isHeld(nowMs)) return;
    if (this.#groups.get(record.group)?.incarnation === record.incarnation) return;
    this.#lose(entry, record, nowMs);
  }

  #purgeExpired(nowMs: number): void {
    let purges = 0;
    for (const entry of this.#jobs.values()) {
      const { record } = entry;
      if (entry.pending || !record || !isEnded(record.state)) continue;
      if (nowMs < record.expireTimeMs) continue;
      this.#ledger.purge(entry);
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
    modelDigest: record.modelDigest,
    numericsClass: resumes ? record.numericsClass : "",
  };
}
