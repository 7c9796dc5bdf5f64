/**
 * The public API, method by method. Reads that decide something go to the store; lists, queue
 * positions and watches come from the mirror; what changes a job goes through the pool's leader.
 */
import { randomBytes } from "node:crypto";
import { AppError, invalidArgument, toAppError } from "@fluxline/kernel/error.ts";
import type { Clock } from "@fluxline/kernel/clock.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue } from "@fluxline/platform/bus/key-value.ts";
import type { Objects } from "@fluxline/platform/bus/object-store.ts";
import { jobKey, tenantDefault } from "@fluxline/platform/bus/topology.ts";
import { grpcCode } from "@fluxline/platform/grpc/status.ts";
import type { CallContext, Handlers, StreamWriter } from "@fluxline/platform/grpc/server.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { ImageJob, ImageJob_State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type {
  CreateImageJobRequest,
  GenerateImageRequest,
  GenerateImageResponse,
  ImageServiceService,
  ListImageJobsRequest,
  ListImageJobsResponse,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import { ulid } from "ulid";
import { sameRequest } from "../../core/admission.ts";
import type { EndedState, JobRecord, JobState } from "../../core/job.ts";
import { jobName, type JobName, parseJobName, parsePoolName } from "../../core/job-name.ts";
import type { JobMirror, MirroredJob } from "../job-mirror.ts";
import type { LeaderClient } from "../leader-client.ts";
import type { PoolDirectory } from "../pool-directory.ts";
import { decodeRecord, stateNumber } from "../record-codec.ts";
import { cancelAbandoned } from "./abandoned-job.ts";
import { draftRecord, repeatOf } from "./image-draft.ts";
import { viewJob } from "./job-view.ts";
import {
  decodeArrivalToken,
  decodePageToken,
  encodePageToken,
  pageBytesMax,
  pageSize,
} from "./paging.ts";
import { viewPool } from "./pool-view.ts";
import { readImage } from "./read-image.ts";
import { watchJob } from "./watch-job.ts";

export interface ImageServiceOptions {
  readonly bus: Bus;
  readonly jobs: KeyValue;
  readonly results: Objects;
  readonly mirror: JobMirror;
  readonly pools: PoolDirectory;
  readonly leader: LeaderClient;
  readonly queuedJobsMax: number;
  readonly clock: Clock;
  readonly log: Logger;
}

const tenant = tenantDefault;

export class ImageServiceHandlers {
  readonly #options: ImageServiceOptions;

  constructor(options: ImageServiceOptions) {
    this.#options = options;
  }

  handlers(): Handlers<ImageServiceService> {
    const { mirror, pools, queuedJobsMax, leader } = this.#options;
    const view = (job: MirroredJob) => viewJob(mirror, job).job;
    return {
      createImageJob: async (request) => view((await this.#create(request)).job),
      getImageJob: async ({ name }) => view(await this.#read(parseJobName("name", name))),
      listImageJobs: async (request) => this.#list(request),
      cancelImageJob: async ({ name }) => {
        const parsed = parseJobName("name", name);
        this.#requirePool(parsed);
        return view(this.#absorb(parsed, await leader.cancel(parsed.pool, tenant, parsed.id)));
      },
      watchImageJob: async ({ name, resumeRevision }, writer, call) => {
        const parsed = parseJobName("name", name);
        // What the mirror knows can be watched also while the store does not answer.
        if (!mirror.get(keyOf(parsed))) await this.#read(parsed);
        for await (const { sight, preview } of this.#watch(parsed, resumeRevision, call.signal)) {
          await writer.write({ revision: sight.revision, job: sight.job, preview });
        }
      },
      readImage: async ({ name, index, offset }, writer) => {
        const { record } = await this.#read(parseJobName("name", name));
        const pieces = readImage(this.#options.results, record, index, offset);
        for await (const piece of pieces) await writer.write(piece);
      },
      generateImage: (request, writer, call) => this.#generate(request, writer, call),
      listPools: async (request) => {
        const size = pageSize(request.pageSize);
        const after = decodePageToken("pools", request.pageToken) ?? "";
        const left = pools.list().filter(({ pool }) => pool > after);
        const page = left.slice(0, size);
        const last = page.at(-1);
        const nextPageToken =
          last && left.length > page.length ? encodePageToken("pools", last.pool) : "";
        const shown = page.map((known) => viewPool(known, pools, mirror, queuedJobsMax));
        return { pools: shown, nextPageToken };
      },
      getPool: async ({ name }) => {
        const pool = parsePoolName("name", name);
        return viewPool(pools.resolve("name", pool), pools, mirror, queuedJobsMax);
      },
    };
  }

  async #create(request: CreateImageJobRequest | GenerateImageRequest): Promise<Created> {
    const { pools, leader, clock } = this.#options;
    const pool = pools.resolve("pool", request.pool);
    const repeated = await this.#findRepeated(pool.pool, request);
    if (repeated) return { job: repeated, created: false };
    const nowMs = clock.nowMs();
    const draft = draftRecord({
      pool,
      tenant,
      spec: request.spec,
      requestId: request.requestId,
      nowMs,
      seed: randomBytes(8).readBigUInt64BE(),
      ulid: ulid(nowMs),
    });
    const name = { pool: pool.pool, id: draft.id };
    try {
      const stored = await leader.admit(draft);
      return { job: this.#absorb(name, stored), created: stored.created };
    } catch (thrown) {
      // Nobody could ask for it again: its id was drawn here, and the caller never hears it.
      const unknown = toAppError(thrown).reason === "LEADER_SILENT";
      if (unknown && request.requestId === "") void this.#cancelAbandoned(name);
      throw thrown;
    }
  }

  /**
   * The job that an earlier call with this request_id made. Looked for before the request is
   * checked: what was valid then may no longer be, like an expire_time that has passed.
   */
  async #findRepeated(
    pool: string,
    request: CreateImageJobRequest | GenerateImageRequest,
  ): Promise<MirroredJob | undefined> {
    const repeat = repeatOf({ ...request, tenant });
    if (!repeat) return undefined;
    const name = { pool, id: repeat.id };
    if (!this.#options.bus.connected) throw noConnection();
    const stored = await this.#options.jobs.get(keyOf(name));
    if (!stored) return undefined;
    const job = this.#absorb(name, stored);
    const same = sameRequest(job.record, repeat.fingerprint, job.revision);
    if (same.kind === "refused") throw same.error;
    return job;
  }

  #cancelAbandoned(name: JobName): Promise<void> {
    return cancelAbandoned(name, { ...this.#options, tenant });
  }

  /** The job as the store has it now. */
  async #read(name: JobName): Promise<MirroredJob> {
    const { bus, jobs } = this.#options;
    this.#requirePool(name);
    if (!bus.connected) throw noConnection();
    const stored = await jobs.get(keyOf(name));
    if (!stored) throw notFound(name);
    return this.#absorb(name, stored);
  }

  #absorb(name: JobName, stored: { value: Uint8Array; revision: number }): MirroredJob {
    const { mirror } = this.#options;
    const key = keyOf(name);
    mirror.absorb(key, stored);
    const mirrored = mirror.get(key);
    if (mirrored) return mirrored;
    // It says so when it cannot be read; else it was purged since.
    decodeRecord(stored.value);
    throw notFound(name);
  }

  /** An unknown pool is told apart from an unknown job, and the known ones are named. */
  #requirePool({ pool }: JobName): void {
    this.#options.pools.resolve("name", pool);
  }

  #watch(name: JobName, after: bigint, signal: AbortSignal) {
    const { bus, mirror } = this.#options;
    const key = keyOf(name);
    return watchJob({ bus, mirror, key, after, signal, notFound: () => notFound(name) });
  }

  #list(request: ListImageJobsRequest): ListImageJobsResponse {
    const { mirror, pools } = this.#options;
    const { pool } = pools.resolve("pool", request.pool);
    const size = pageSize(request.pageSize);
    const states = statesOf(request);
    const list = `jobs/${pool}/${[...states].sort().join(",")}`;
    const before = decodeArrivalToken(list, request.pageToken);
    const jobs: ImageJob[] = [];
    let bytes = 0;
    let lastArrival = 0n;
    for (const job of mirror.newestFirst(pool, before)) {
      const { record } = job;
      if (record.tenant !== tenant) continue;
      if (states.size > 0 && !states.has(stateNumber(record.state))) continue;
      const shown = viewJob(mirror, job).job;
      bytes += ImageJob.encode(shown).finish().length;
      if (jobs.length >= size || (jobs.length > 0 && bytes > pageBytesMax)) {
        return { jobs, nextPageToken: encodePageToken(list, `${lastArrival}`) };
      }
      jobs.push(shown);
      lastArrival = record.arrival;
    }
    return { jobs, nextPageToken: "" };
  }

  async #generate(
    request: GenerateImageRequest,
    writer: StreamWriter<GenerateImageResponse>,
    call: CallContext,
  ): Promise<void> {
    const { mirror, results } = this.#options;
    const { job: made, created } = await this.#create(request);
    const name = { pool: made.record.pool, id: made.record.id };
    try {
      call.signal.throwIfAborted();
      for await (const { sight, preview } of this.#watch(name, 0n, call.signal)) {
        const { revision, job } = sight;
        const jobEvent = {
          $case: "jobEvent",
          value: { revision, job, preview: undefined },
        } as const;
        await writer.write({ event: preview ? { $case: "preview", value: preview } : jobEvent });
      }
      const record = mirror.get(keyOf(name))?.record;
      if (!record) throw notFound(name);
      if (record.state !== "succeeded") throw endedWithout(record);
      for (const { index } of record.units) {
        for await (const piece of readImage(results, record, index, 0n)) {
          await writer.write({ event: { $case: "imageChunk", value: { index, ...piece } } });
        }
      }
    } catch (thrown) {
      const { code } = toAppError(thrown);
      const clientGone = call.signal.aborted && code !== "unavailable";
      // A job that an earlier call made is not this caller's to end.
      if (clientGone && created) await this.#cancelAbandoned(name);
      throw thrown;
    }
  }
}

interface Created {
  readonly job: MirroredJob;
  /** False when an earlier call with this request_id made it. */
  readonly created: boolean;
}

function keyOf({ pool, id }: JobName): string {
  return jobKey({ pool, tenant, id });
}

function statesOf({ states }: ListImageJobsRequest): Set<ImageJob_State> {
  const known = new Set<number>(Object.values(ImageJob_State));
  for (const state of states) {
    if (known.has(state) && state > 0) continue;
    const description = `holds ${state}; use states from 1 to ${ImageJob_State.STATE_EXPIRED}`;
    throw invalidArgument([{ field: "states", description }]);
  }
  return new Set(states);
}

const endedCodes: Partial<Record<JobState, AppError["code"]>> = {
  cancelled: "cancelled",
  expired: "deadline_exceeded",
} satisfies Partial<Record<EndedState, AppError["code"]>>;

/** One call, one outcome: a job without images ends the call with the job's own reason. */
function endedWithout(record: JobRecord): AppError {
  const name = jobName(record);
  const { failure } = record;
  const code = endedCodes[record.state] ?? failure?.code ?? "internal";
  const text = failure ? `${name}: ${failure.message}` : `${name} was ${record.state}`;
  return new AppError(code, text, {
    reason: failure?.reason ?? `JOB_${record.state.toUpperCase()}`,
    retryable: false,
    details: { job: name, jobCode: String(grpcCode(failure?.code ?? code)) },
  });
}

function notFound(name: JobName): AppError {
  const text = `there is no job ${jobName(name)}: it may have expired`;
  return new AppError("not_found", `${text}; ListImageJobs names the others`, {
    reason: "JOB_NOT_FOUND",
  });
}

function noConnection(): AppError {
  const text = "the scheduler has no connection to NATS just now: nothing is lost; ask again";
  return new AppError("unavailable", text, { reason: "NATS_UNREACHABLE", retryAfterMs: 1_000 });
}
