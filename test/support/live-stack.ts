/**
 * nats-server, a scheduler, real groups and a client, with an observer of everything on the bus: for
 * tests of what becomes of a job when a part is lost.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { toAppError } from "@fluxline/kernel/error.ts";
import { openKeyValue } from "@fluxline/platform/bus/key-value.ts";
import { jobsBucket } from "@fluxline/platform/bus/topology.ts";
import type { Fence } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { JobRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { type ImageJob, ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import type { JobHistory } from "../chaos/job-history.ts";
import { Observer } from "../chaos/observer.ts";
import { type GroupProcess, startGroupProcess } from "./group-process.ts";
import { type NatsServer, startNats } from "./nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "./scheduler-process.ts";
import { until } from "./until.ts";

/** A checkpoint of random weights that takes a few milliseconds a step. */
export const randomModel = fileURLToPath(
  new URL("../golden/data/checkpoints/dev-like", import.meta.url),
);
const END_MS_MAX = 90_000;
const STEP_MS_MAX = 60_000;
const LEADER_MS_MAX = 20_000;

export class LiveStack {
  readonly nats: NatsServer;
  readonly observer: Observer;
  readonly #folder: string;
  readonly groups: GroupProcess[] = [];
  scheduler: SchedulerProcess;
  client: TestClient;

  private constructor(
    nats: NatsServer,
    scheduler: SchedulerProcess,
    observer: Observer,
    folder: string,
  ) {
    this.nats = nats;
    this.scheduler = scheduler;
    this.client = new TestClient(scheduler.address);
    this.observer = observer;
    this.#folder = folder;
  }

  static async start(): Promise<LiveStack> {
    const nats = await startNats();
    const scheduler = await startScheduler(nats.url);
    const folder = mkdtempSync(join(tmpdir(), "fluxline-live-"));
    const observer = await Observer.start(nats.url, join(folder, "trace.log"));
    return new LiveStack(nats, scheduler, observer, folder);
  }

  async stop(): Promise<void> {
    this.client.close();
    await this.observer.stop();
    for (const group of this.groups) await group.kill();
    await this.scheduler.kill();
    await this.nats.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async group(
    name: string,
    options: readonly string[] = [],
    environment: Readonly<Record<string, string>> = {},
    model = randomModel,
  ): Promise<GroupProcess> {
    const args = ["--group", name, ...options];
    const started = await startGroupProcess(this.nats.url, model, args, environment);
    this.groups.push(started);
    return started;
  }

  /** Kills the scheduler and starts another one, which leads under a larger epoch. */
  async replaceScheduler(): Promise<void> {
    this.client.close();
    await this.scheduler.kill();
    this.scheduler = await startScheduler(this.nats.url);
    this.client = new TestClient(this.scheduler.address);
  }

  /** Waits for a leader if there is none just now. */
  async create(spec: object): Promise<ImageJob> {
    const request = CreateImageJobRequest.fromPartial({ spec, requestId: randomUUID() });
    const deadlineMs = Date.now() + LEADER_MS_MAX;
    for (;;) {
      try {
        return await this.client.call((c, done) => c.createImageJob(request, done));
      } catch (thrown) {
        if (!toAppError(thrown).retryable || Date.now() > deadlineMs) throw thrown;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  /** Its id, for a job that is not waited for. */
  async begin(spec: object): Promise<string> {
    return idOf((await this.create(spec)).name);
  }

  get(id: string): Promise<ImageJob> {
    return this.client.call((c, done) => c.getImageJob({ name: nameOf(id) }, done));
  }

  /** The record as the store has it. */
  async record(id: string): Promise<JobRecord> {
    const jobs = await openKeyValue(this.observer.bus, jobsBucket);
    const stored = await jobs.get(`default.default.${id}`);
    if (stored === undefined) throw new Error(`there is no record of ${id}`);
    return JobRecord.decode(stored.value);
  }

  history(id: string): JobHistory {
    return this.observer.history(id);
  }

  async ended(id: string): Promise<ImageJob> {
    await until(() => this.history(id).ends > 0, END_MS_MAX);
    return this.get(id);
  }

  /** Resolves when the present attempt has said that so many steps are done. */
  reaches(id: string, steps: number): Promise<void> {
    return until(() => (this.history(id).attempts.at(-1)?.lastStep ?? 0) >= steps, STEP_MS_MAX);
  }

  async pictures(id: string): Promise<string[]> {
    const { state, error, images } = await this.ended(id);
    if (state !== State.STATE_SUCCEEDED) throw new Error(`${id} failed: ${error?.message}`);
    const digests: string[] = [];
    for (const { index } of images) {
      const read = this.client.raw.readImage({ name: nameOf(id), index, offset: 0n });
      const chunks = (await this.client.collect(read)).map(({ chunk }) => chunk);
      digests.push(createHash("sha256").update(Buffer.concat(chunks)).digest("hex"));
    }
    return digests;
  }

  /** The fence of where a job is placed now. */
  async fence(id: string): Promise<Fence> {
    const { pool, tenant, attempt, group, incarnation, leaderEpoch } = await this.record(id);
    return { pool, tenant, job: id, attempt, group, incarnation, leaderEpoch };
  }
}

function nameOf(id: string): string {
  return `pools/default/jobs/${id}`;
}

function idOf(name: string): string {
  return name.split("/")[3] ?? "";
}
