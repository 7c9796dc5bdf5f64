/**
 * One reign over one pool: loads the records, feeds the core with what the bus brings and carries
 * out its effects. Ends for good when the lease is gone; the next reign is a new session.
 *
 *   watch jobs --synced--> PoolLeader --effects--> store, groups, replies
 *        ^ bus: admit, cancel, register, report, heartbeat, echo; timer: tick
 */
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import type { Clock } from "@fluxline/kernel/clock.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue, KeyValueWatch, WatchEvent } from "@fluxline/platform/bus/key-value.ts";
import type { Objects } from "@fluxline/platform/bus/object-store.ts";
import { callBus, type Served } from "@fluxline/platform/bus/request.ts";
import { groupSubject, keyInPool } from "@fluxline/platform/bus/topology.ts";
import { toStatus } from "@fluxline/platform/grpc/status.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { steadyClock } from "@fluxline/platform/steady-clock.ts";
import {
  Assign,
  CommandReply,
  CommandReply_Outcome,
  type AdmitReply,
  type CancelReply,
  type Registration,
  type RegistrationReply,
  type ReportReply,
  ReportReply_Outcome,
  Revoke,
  Revoke_Reason,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import type { ModelProfile } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import type { AdmitOutcome } from "../core/admission.ts";
import type { BlobPointer } from "../core/job.ts";
import type { Effect, Found, Input, Refused } from "../core/leader-protocol.ts";
import { TICK_MS } from "../core/limits.ts";
import type { LoadedJob } from "../core/job-table.ts";
import { PoolLeader, type PoolFigures } from "../core/pool-leader.ts";
import { sweepBlobs } from "./blob-sweeper.ts";
import { assignOutcomeFromWire, assignToWire, registrationFromWire } from "./bus-codec.ts";
import { MarkerSweeper, markersEveryMs } from "./marker-sweeper.ts";
import { JobStore, loaded, type WriteResult } from "./job-store.ts";
import { publishEcho, serveLeader } from "./leader-bus.ts";
import { storePool } from "./pool-store.ts";
import { toWireRecord } from "./record-codec.ts";

const commandTimeoutMs = 5_000;
const sweepEveryMs = 5 * 60_000;

export interface LeaderSessionOptions {
  readonly bus: Bus;
  readonly pool: string;
  readonly epoch: bigint;
  readonly queuedJobsMax: number;
  /** What the records of this pool may take together; less when there are more pools. */
  readonly recordBytesMax: () => number;
  readonly jobs: KeyValue;
  readonly pools: KeyValue;
  readonly results: Objects;
  readonly checkpoints: Objects;
  readonly clock: Clock;
  readonly log: Logger;
  /** Whether the lease still holds. */
  readonly mayWrite: () => boolean;
  /** The core says that somebody newer leads, or failed: the lease is to be let go. */
  readonly onEnd: (why: string) => void;
  readonly count: (what: string, label: string) => void;
}

type Reply = AdmitReply | CancelReply | ReportReply | RegistrationReply;

export class LeaderSession {
  readonly #options: LeaderSessionOptions;
  readonly #store: JobStore;
  readonly #watch: KeyValueWatch;
  readonly #loading = new Map<string, LoadedJob>();
  /** Jobs whose records this version cannot read. */
  readonly #unreadable = new Set<string>();
  readonly #markers: MarkerSweeper;
  readonly #nowMs: () => number;
  readonly #replies = new Map<number, (reply: Reply | undefined) => void>();
  #core: PoolLeader | undefined;
  #served: Served[] = [];
  #timers: NodeJS.Timeout[] = [];
  #nextToken = 1;
  #ended = false;

  constructor(options: LeaderSessionOptions) {
    this.#options = options;
    this.#nowMs = steadyClock(options.clock);
    this.#store = new JobStore(
      options.jobs,
      options.pool,
      () => !this.#ended && options.mayWrite(),
    );
    this.#markers = new MarkerSweeper((key, revision) => this.#store.eraseMarker(key, revision));
    this.#watch = options.jobs.watch(`${options.pool}.>`, (event) => this.#onWatch(event));
  }

  get leading(): boolean {
    return this.#core !== undefined && !this.#ended;
  }

  get figures(): PoolFigures | undefined {
    return this.#core?.figures;
  }

  /** Stops at once: nothing is written, answered or commanded from here on. */
  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    for (const timer of this.#timers) clearInterval(timer);
    for (const resolve of this.#replies.values()) resolve(undefined);
    this.#replies.clear();
    await Promise.all([...this.#served.map((served) => served.stop()), this.#watch.stop()]);
  }

  /** A registration; no reply unless this session leads. */
  register(registration: Registration): Promise<RegistrationReply | undefined> {
    const { profile } = registration;
    if (!profile) {
      const text = "the registration has no model profile: send one";
      const error = new AppError("invalid_argument", text, { reason: "PROFILE_MISSING" });
      return Promise.resolve({ outcome: { $case: "refused", value: toStatus(error) } });
    }
    const facts = registrationFromWire(registration, profile);
    return this.#ask((token) => ({ kind: "register", token, facts, profile }));
  }

  // --- inputs ----------------------------------------------------------------------------------

  #onWatch(event: WatchEvent): void {
    if (this.#ended) return;
    switch (event.kind) {
      case "put":
        return this.#onPut(event.key, event.stored);
      case "removed":
        this.#unreadable.delete(this.#jobOf(event.key));
        this.#markers.seen(this.#jobOf(event.key), event.revision, this.#nowMs());
        this.#loading.delete(event.key);
        return;
      case "synced":
        if (!this.#core) this.#begin();
        return;
      case "reset":
        return this.#options.onEnd("the bucket of job records was made anew");
      case "interrupted":
        this.#options.log.warn({ pool: this.#options.pool, error: event.error }, "watch broke");
        return;
    }
  }

  /** A key of the bucket without the pool. */
  #jobOf(key: string): string {
    return keyInPool(this.#options.pool, key);
  }

  #onPut(key: string, stored: { value: Uint8Array; revision: number }): void {
    let job: LoadedJob;
    try {
      job = loaded(stored);
      this.#unreadable.delete(this.#jobOf(key));
    } catch (error) {
      // A record of a version to come: leave it to replicas that can read it.
      this.#options.log.error({ key, error }, "job record cannot be read");
      this.#options.count("unreadable_records", "");
      this.#unreadable.add(this.#jobOf(key));
      return;
    }
    if (this.#core) this.#step({ kind: "observed", job });
    else this.#loading.set(key, job);
  }

  #begin(): void {
    const { pool, epoch, queuedJobsMax, recordBytesMax, log } = this.#options;
    const jobs = [...this.#loading.values()];
    this.#loading.clear();
    this.#core = new PoolLeader({ pool, epoch, queuedJobsMax }, jobs, this.#nowMs());
    this.#served = serveLeader(this.#options.bus, pool, epoch, {
      recordBytesMax,
      ask: (input) => this.#ask(input),
      tell: (input) => this.#step(input),
      onError: (error, subject) => log.warn({ subject, error }, "bus message not handled"),
    });
    this.#timers = [
      setInterval(() => this.#step({ kind: "tick" }), TICK_MS),
      setInterval(() => void this.#sweep(), sweepEveryMs),
      setInterval(() => void this.#sweepMarkers(), markersEveryMs),
    ];
    log.info({ pool, jobs: jobs.length }, "job records loaded");
    this.#step({ kind: "tick" });
  }

  #ask<R extends Reply>(input: (token: number) => Input): Promise<R | undefined> {
    if (!this.leading) return Promise.resolve(undefined);
    const token = this.#nextToken++;
    const { promise, resolve } = Promise.withResolvers<Reply | undefined>();
    this.#replies.set(token, resolve);
    this.#step(input(token));
    return promise as Promise<R | undefined>;
  }

  #reply(token: number, reply: Reply | undefined): void {
    this.#replies.get(token)?.(reply);
    this.#replies.delete(token);
  }

  #step(input: Input): void {
    if (this.#ended || !this.#core || !this.#options.mayWrite()) return;
    try {
      const effects = this.#core.step(input, this.#nowMs());
      for (const effect of effects) this.#carryOut(effect);
    } catch (thrown) {
      // Our own mistake: what is in memory may be wrong, what is in the store is not.
      this.#options.log.fatal({ input: input.kind, error: thrown }, "the core failed");
      this.#options.onEnd("the core failed");
    }
  }

  // --- effects ---------------------------------------------------------------------------------

  #carryOut(effect: Effect): void {
    switch (effect.kind) {
      case "write":
        return this.#inBackground(effect.kind, this.#write(effect));
      case "purge":
        return this.#inBackground(effect.kind, this.#purge(effect.key, effect.revision));
      case "delete-blobs":
        return this.#inBackground(effect.kind, this.#deleteBlobs(effect.blobs));
      case "assign":
        return this.#inBackground(effect.kind, this.#assign(effect));
      case "revoke":
        return this.#inBackground(effect.kind, this.#revoke(effect));
      case "reply-admit":
        return this.#reply(effect.token, admitReply(effect.outcome));
      case "reply-cancel":
        return this.#reply(effect.token, jobReply(effect.outcome));
      case "reply-report": {
        const outcome =
          effect.outcome === "recorded"
            ? ReportReply_Outcome.OUTCOME_RECORDED
            : ReportReply_Outcome.OUTCOME_STALE;
        return this.#reply(effect.token, { outcome });
      }
      case "reply-register":
        return this.#reply(effect.token, {
          outcome: { $case: "refused", value: toStatus(effect.outcome.error) },
        });
      case "no-reply":
        return this.#reply(effect.token, undefined);
      case "store-pool":
        return this.#inBackground(effect.kind, this.#storePool(effect));
      case "echo":
        return publishEcho(this.#options.bus, this.#options.pool, this.#options.epoch);
      case "step-down":
        return this.#options.onEnd(effect.why);
      case "count":
        return this.#options.count(effect.what, effect.label);
    }
  }

  /** Each of them tells its outcome to the core; what it throws is a mistake of ours. */
  #inBackground(what: string, work: Promise<void>): void {
    work.catch((error) => this.#options.log.error({ what, error }, "effect not carried out"));
  }

  async #write({ key, record, revision }: Extract<Effect, { kind: "write" }>): Promise<void> {
    this.#settle(key, await this.#store.write(key, record, revision).catch(refused), "written");
  }

  async #purge(key: string, revision: number): Promise<void> {
    this.#settle(key, await this.#store.purge(key, revision).catch(refused), "purged");
  }

  #settle(key: string, result: WriteResult, done: "written" | "purged"): void {
    switch (result.kind) {
      case "written":
        if (done === "purged") return this.#step({ kind: "purged", key });
        return this.#step({ ...result, key });
      case "conflict":
        return this.#step({ kind: "conflict", key, stored: result.stored });
      case "refused":
        this.#options.log.error({ key, error: result.error }, "record not written");
        return this.#step({ kind: "write-refused", key, error: result.error });
      case "abandoned":
        return;
    }
  }

  async #assign(effect: Extract<Effect, { kind: "assign" }>): Promise<void> {
    const { fence } = effect;
    const outcome = await callBus(this.#options.bus, {
      subject: groupSubject(fence.pool, fence.group, "assign"),
      request: Assign,
      reply: CommandReply,
      body: assignToWire(effect),
      timeoutMs: commandTimeoutMs,
    });
    const kinds = { reply: undefined, undelivered: "not-taken", unknown: "unknown" } as const;
    const kind = kinds[outcome.kind];
    const told =
      outcome.kind === "reply" ? assignOutcomeFromWire(outcome.value) : { kind: kind ?? "unknown" };
    this.#step({ kind: "assign-outcome", fence, outcome: told });
  }

  async #revoke({ fence }: Extract<Effect, { kind: "revoke" }>): Promise<void> {
    const outcome = await callBus(this.#options.bus, {
      subject: groupSubject(fence.pool, fence.group, "revoke"),
      request: Revoke,
      reply: CommandReply,
      body: { fence, reason: Revoke_Reason.REASON_CANCELLED },
      timeoutMs: commandTimeoutMs,
    });
    if (outcome.kind !== "reply") return;
    if (outcome.value.outcome !== CommandReply_Outcome.OUTCOME_STALE) return;
    this.#step({ kind: "revoke-stale", fence });
  }

  async #storePool(effect: Extract<Effect, { kind: "store-pool" }>): Promise<void> {
    const { pools, pool, epoch } = this.#options;
    try {
      await storePool(pools, pool, effect.profile as ModelProfile, effect.facts);
      this.#reply(effect.token, { outcome: { $case: "accepted", value: { leaderEpoch: epoch } } });
    } catch (thrown) {
      const value = toStatus(toAppError(thrown));
      this.#reply(effect.token, { outcome: { $case: "refused", value } });
    }
  }

  async #deleteBlobs(blobs: readonly BlobPointer[]): Promise<void> {
    const { results, checkpoints, log } = this.#options;
    for (const blob of blobs) {
      const store = [results, checkpoints].find((each) => each.store.name === blob.bucket);
      try {
        await store?.delete(blob.key);
      } catch (error) {
        log.warn({ key: blob.key, error }, "blob not deleted: the sweeper will");
      }
    }
  }

  async #sweep(): Promise<void> {
    const { pool, results, checkpoints, clock, log } = this.#options;
    const core = this.#core;
    if (!core) return;
    const goOn = () => !this.#ended;
    const look = (key: string) => core.look(key);
    const isUnreadable = (key: string) => this.#unreadable.has(key);
    const nowMs = clock.nowMs();
    try {
      const stores = [results, checkpoints];
      const blobs = await sweepBlobs({ pool, stores, look, isUnreadable, nowMs, log, goOn });
      if (blobs > 0) log.info({ pool, blobs }, "swept");
    } catch (error) {
      log.warn({ pool, error }, "sweep ended early");
    }
  }

  async #sweepMarkers(): Promise<void> {
    const { pool, log } = this.#options;
    try {
      const markers = await this.#markers.sweep(this.#nowMs(), () => !this.#ended);
      if (markers > 0) log.debug({ pool, markers }, "markers of purged jobs erased");
    } catch (error) {
      log.warn({ pool, error }, "markers of purged jobs not erased: they are tried again");
    }
  }
}

function refused(thrown: unknown): WriteResult {
  return { kind: "refused", error: toAppError(thrown) };
}

function admitReply(outcome: AdmitOutcome): AdmitReply {
  return { ...jobReply(outcome), created: outcome.kind === "found" && outcome.created };
}

function jobReply(outcome: Found | Refused): CancelReply {
  if (outcome.kind === "refused") {
    return { outcome: { $case: "refused", value: toStatus(outcome.error) }, revision: 0n };
  }
  const { record, revision } = outcome;
  return {
    outcome: { $case: "record", value: toWireRecord(record) },
    revision: BigInt(revision),
  };
}
