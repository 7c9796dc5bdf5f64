/**
 * Every job record as this replica has heard of it, with the progress of those that run. Serves
 * lists, queue positions and watches; what must be true now is read from the store.
 *
 * A follower is told that something changed, not what: it looks when it gets to it, so one that is
 * slow sees fewer, newer states and holds nothing up.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { PREVIEW_BYTES_MAX } from "@fluxline/kernel/image-previews.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type {
  KeyValue,
  KeyValueWatch,
  Stored,
  WatchEvent,
} from "@fluxline/platform/bus/key-value.ts";
import { listenBus, type Served } from "@fluxline/platform/bus/request.ts";
import { everyPoolGroupSubject, jobKey } from "@fluxline/platform/bus/topology.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { JobProgress } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import type { Progress } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { ArrivalOrder } from "../core/arrival-order.ts";
import { compareTurns, isActive, isPlacedAt, type JobRecord } from "../core/job.ts";
import { PreviewBoard } from "./preview-board.ts";
import { decodeRecord } from "./record-codec.ts";

export interface MirroredJob {
  readonly key: string;
  readonly record: JobRecord;
  readonly revision: number;
  readonly progress: Progress | undefined;
}

interface PoolJobs {
  readonly order: ArrivalOrder;
  readonly queued: Set<string>;
  active: number;
}

export interface PoolCounts {
  readonly queued: number;
  readonly active: number;
}

export class JobMirror {
  /** Of the placements that the records speak of. */
  readonly previews = new PreviewBoard();
  readonly #log: Logger;
  readonly #jobs = new Map<string, MirroredJob>();
  readonly #pools = new Map<string, PoolJobs>();
  readonly #followers = new Map<string, Set<() => void>>();
  readonly #watch: KeyValueWatch;
  readonly #progress: Served;
  /** Everything up to here was heard. */
  #heardRevision = 0;
  readonly #synced = Promise.withResolvers<void>();

  constructor(bus: Bus, kv: KeyValue, log: Logger) {
    this.#log = log;
    this.#watch = kv.watch(">", (event) => this.#onWatch(event));
    this.#progress = listenBus(bus, {
      subject: everyPoolGroupSubject("progress"),
      message: JobProgress,
      handle: (message) => this.#onProgress(message),
      onError: (error, subject) => log.warn({ subject, error }, "progress not understood"),
    });
  }

  /** Resolves once everything that is stored has been heard. */
  get synced(): Promise<void> {
    return this.#synced.promise;
  }

  async stop(): Promise<void> {
    await Promise.all([this.#watch.stop(), this.#progress.stop()]);
  }

  get(key: string): MirroredJob | undefined {
    return this.#jobs.get(key);
  }

  /** Jobs of a pool, ended ones too. */
  size(pool: string): number {
    return this.#pools.get(pool)?.order.size ?? 0;
  }

  counts(pool: string): PoolCounts {
    const jobs = this.#pools.get(pool);
    return { queued: jobs?.queued.size ?? 0, active: jobs?.active ?? 0 };
  }

  /** Jobs ahead of it in the queue. */
  queuePosition(job: MirroredJob): number {
    let ahead = 0;
    for (const key of this.#pools.get(job.record.pool)?.queued ?? []) {
      const other = this.#jobs.get(key);
      if (other && compareTurns(other.record, job.record) < 0) ahead += 1;
    }
    return ahead;
  }

  /** Jobs of a pool, newest first, from those that arrived before `before`. */
  *newestFirst(pool: string, before: bigint | undefined): Generator<MirroredJob> {
    for (const key of this.#pools.get(pool)?.order.newestFirst(before) ?? []) {
      const job = this.#jobs.get(key);
      if (job) yield job;
    }
  }

  /** Takes in what was just read from or written to the store, ahead of the watch. */
  absorb(key: string, stored: Stored): void {
    const present = this.#jobs.get(key);
    if (present && present.revision >= stored.revision) return;
    // It was there when it was read, and its removal was heard since.
    if (!present && stored.revision <= this.#heardRevision) return;
    this.#take(key, stored);
  }

  #take(key: string, stored: Stored): void {
    let record: JobRecord;
    try {
      record = decodeRecord(stored.value);
    } catch (error) {
      this.#log.error({ key, error }, "job record cannot be read");
      return;
    }
    this.#put(key, record, stored.revision);
  }

  /** Calls `onChange` after each change of the job; the returned function ends that. */
  follow(key: string, onChange: () => void): () => void {
    const followers = this.#followers.get(key) ?? new Set();
    followers.add(onChange);
    this.#followers.set(key, followers);
    return () => {
      followers.delete(onChange);
      if (followers.size === 0) this.#followers.delete(key);
    };
  }

  #onWatch(event: WatchEvent): void {
    switch (event.kind) {
      case "put":
        this.absorb(event.key, event.stored);
        this.#heardRevision = event.stored.revision;
        return;
      case "removed":
        this.#heardRevision = event.revision;
        return this.#remove(event.key, event.revision);
      case "synced":
        return this.#synced.resolve();
      case "reset":
        this.#heardRevision = 0;
        for (const key of this.#jobs.keys()) this.#remove(key, Infinity);
        return;
      case "interrupted":
        this.#log.warn({ error: event.error }, "watch on job records broke");
        return;
    }
  }

  #put(key: string, record: JobRecord, revision: number): void {
    const before = this.#jobs.get(key);
    // Progress speaks of one placement.
    const sameAttempt = before?.record.attempt === record.attempt && isActive(record.state);
    const progress = sameAttempt ? before.progress : undefined;
    if (!sameAttempt) this.previews.forget(key);
    const job = { key, record, revision, progress };
    this.#jobs.set(key, job);
    this.#index(before, job);
    this.#tell(key);
  }

  #remove(key: string, revision: number): void {
    const before = this.#jobs.get(key);
    if (!before || before.revision > revision) return;
    this.#jobs.delete(key);
    this.previews.forget(key);
    this.#index(before, undefined);
    this.#tell(key);
  }

  #onProgress({ fence, progress, preview }: JobProgress): void {
    if (!fence) return;
    const key = jobKey({ ...fence, id: fence.job });
    const job = this.#jobs.get(key);
    if (!job || !isPlacedAt(job.record, fence)) return;
    if (preview && preview.content.length <= PREVIEW_BYTES_MAX) this.previews.put(key, preview);
    if (!progress) return;
    this.#jobs.set(key, { ...job, progress });
    this.#tell(key);
  }

  #index(before: MirroredJob | undefined, after: MirroredJob | undefined): void {
    const either = after ?? before;
    assert(either, "nothing to index");
    const jobs = this.#pool(either.record.pool);
    if (before && isActive(before.record.state)) jobs.active -= 1;
    if (after && isActive(after.record.state)) jobs.active += 1;
    if (after?.record.state === "queued") jobs.queued.add(either.key);
    else jobs.queued.delete(either.key);
    // Under the same id another job may have come.
    if (before?.record.arrival === after?.record.arrival) return;
    if (before) jobs.order.remove(before.record.arrival, before.key);
    if (after) jobs.order.add(after.record.arrival, after.key);
  }

  #pool(pool: string): PoolJobs {
    const present = this.#pools.get(pool);
    if (present) return present;
    const jobs: PoolJobs = { order: new ArrivalOrder(), queued: new Set(), active: 0 };
    this.#pools.set(pool, jobs);
    return jobs;
  }

  #tell(key: string): void {
    for (const onChange of this.#followers.get(key) ?? []) onChange();
  }
}
