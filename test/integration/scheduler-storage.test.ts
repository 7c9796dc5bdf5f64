/** What the scheduler keeps and deletes in a real NATS, and who may write. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import { type KeyValue, openKeyValue } from "@fluxline/platform/bus/key-value.ts";
import { type Objects, openObjects } from "@fluxline/platform/bus/object-store.ts";
import { provisionStores } from "@fluxline/platform/bus/provision.ts";
import {
  checkpointsStore,
  jobsBucket,
  leadersBucket,
  leaseTtlMs,
  resultsStore,
} from "@fluxline/platform/bus/topology.ts";
import { createLog } from "@fluxline/platform/log.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";
import { ImageJob_State as State, type ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { orphanAgeMsMin, sweepBlobs } from "@fluxline/scheduler/adapters/blob-sweeper.ts";
import { JobStore } from "@fluxline/scheduler/adapters/job-store.ts";
import { Lease } from "@fluxline/scheduler/adapters/lease.ts";
import { buildRecord, finishedUnit } from "@fluxline/scheduler/core/job-builder.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { startScheduler, TestClient } from "../support/scheduler-process.ts";
import { ScriptedGroup } from "../support/scripted-group.ts";
import { until } from "../support/until.ts";

let nats: NatsServer;
let bus: Bus;
let jobs: KeyValue;
let leaders: KeyValue;
let results: Objects;
let checkpoints: Objects;
const log = createLog("test", "silent");

beforeAll(async () => {
  nats = await startNats();
  bus = await connectBus({ url: nats.url, name: "test" });
  await provisionStores(bus);
  jobs = await openKeyValue(bus, jobsBucket);
  leaders = await openKeyValue(bus, leadersBucket);
  results = await openObjects(bus, resultsStore);
  checkpoints = await openObjects(bus, checkpointsStore);
});

afterAll(async () => {
  await bus?.close();
  await nats?.close();
});

describe("the lease", () => {
  const compete = (replica: string, pool: string, told: string[]) =>
    new Lease({
      kv: leaders,
      pool,
      replica,
      clock: realClock,
      log,
      holder: {
        acquired: (epoch) => told.push(`${replica} ${epoch}`),
        lost: () => told.push(`${replica} lost`),
      },
    });

  test("has one holder; a release lets the next in with a larger epoch", async () => {
    const told: string[] = [];
    const a = compete("a", "one", told);
    await until(() => a.valid);
    const b = compete("b", "one", told);
    await new Promise((resolve) => setTimeout(resolve, leaseTtlMs + 1_500));
    expect(a.valid && !b.valid).toBe(true);
    await a.release();
    await until(() => b.valid, 3_000);
    const epochs = told.filter((line) => !line.endsWith("lost")).map((l) => Number(l.slice(2)));
    expect(epochs).toHaveLength(2);
    expect(epochs[1]).toBeGreaterThan(epochs[0] ?? 0);
    await b.release();
  });

  test("is lost by its own clock before the server lets another one in", async () => {
    const told: string[] = [];
    const a = compete("a", "two", told);
    await until(() => a.valid);
    const b = compete("b", "two", told);
    let both = false;
    const watch = setInterval(() => (both ||= a.valid && b.valid), 1);
    nats.pause();
    await until(() => !a.valid, leaseTtlMs);
    nats.resume();
    await until(() => a.valid || b.valid, leaseTtlMs + 10_000);
    clearInterval(watch);
    expect(both).toBe(false);
    await Promise.all([a.release(), b.release()]);
  });
});

describe("the job store", () => {
  test("a write whose answer was lost is found out by reading", async () => {
    const store = new JobStore(jobs, "p", () => true);
    const record = buildRecord({ spec: undefined });
    const first = await store.write("default.w1", record, 0);
    expect(first.kind).toBe("written");
    // The same write again is what a retry after a lost answer looks like.
    expect(await store.write("default.w1", record, 0)).toEqual(first);
    const other = await store.write("default.w1", { ...record, arrival: 9n }, 0);
    expect(other).toMatchObject({ kind: "conflict", stored: { record: { arrival: 1n } } });
  });

  test("nothing is written once the lease is gone", async () => {
    const store = new JobStore(jobs, "p", () => false);
    const record = buildRecord({ spec: undefined });
    expect(await store.write("default.w2", record, 0)).toEqual({ kind: "abandoned" });
    expect(await jobs.get("p.default.w2")).toBeUndefined();
  });
});

describe("the sweeper", () => {
  test("deletes what nothing points to, when it is old enough, and only of its pool", async () => {
    const record = buildRecord({
      state: "succeeded",
      attempt: 2n,
      units: [finishedUnit(0, 2)],
    });
    const bytes = new Uint8Array([1]);
    const kept = "p/default/job1/2/0";
    const others = ["p/default/job1/1/0", "p/default/gone/1/0", "q/default/gone/1/0"];
    const unread = "p/default/tocome/1/0";
    for (const key of [kept, unread, ...others]) await results.put(key, bytes);
    await checkpoints.put("p/default/job1/2/0-3", bytes);
    const stores = [results, checkpoints];
    const look = (key: string) => (key === "default.job1" ? record : undefined);
    const isUnreadable = (key: string) => key === "default.tocome";
    const sweep = (nowMs: number) =>
      sweepBlobs({ pool: "p", stores, look, isUnreadable, nowMs, log, goOn: () => true });
    expect(await sweep(Date.now())).toBe(0);
    expect(await sweep(Date.now() + orphanAgeMsMin + 1_000)).toBe(3);
    const left = (await results.list()).map((object) => object.key).sort();
    expect(left).toEqual([kept, unread, "q/default/gone/1/0"]);
    expect(await checkpoints.list()).toEqual([]);
  });
});

describe("a job's end of life", () => {
  test("its record and its images are deleted at its expire time", async () => {
    const scheduler = await startScheduler(nats.url);
    const client = new TestClient(scheduler.address);
    const group = new ScriptedGroup(bus, { pool: "life" });
    await group.start();
    const request = {
      pool: "life",
      spec: { prompt: "short", expireTime: new Date(Date.now() + 3_000) },
    };
    const job = await client.call<ImageJob>((c, done) =>
      c.createImageJob(CreateImageJobRequest.fromPartial(request), done),
    );
    const get = () => client.call<ImageJob>((c, done) => c.getImageJob({ name: job.name }, done));
    await until(async () => (await get()).state === State.STATE_SUCCEEDED);
    const stored = async () =>
      (await results.list()).filter((object) => object.key.startsWith("life/")).length;
    expect(await stored()).toBe(1);
    await until(() =>
      get()
        .then(() => false)
        .catch((error) => error.reason === "JOB_NOT_FOUND"),
    );
    await until(async () => (await stored()) === 0);
    await group.crash();
    client.close();
    await scheduler.terminate();
  });

  test("one that waits longer than its queue_timeout ends EXPIRED", async () => {
    const scheduler = await startScheduler(nats.url);
    const client = new TestClient(scheduler.address);
    const request = {
      pool: "life",
      spec: { prompt: "waits", queueTimeout: { seconds: 1n, nanos: 0 } },
    };
    let job: ImageJob | undefined;
    await until(async () => {
      job = await client
        .call<ImageJob>((c, done) =>
          c.createImageJob(CreateImageJobRequest.fromPartial(request), done),
        )
        .catch(() => undefined);
      return job !== undefined;
    });
    const events = await client.collect(
      client.raw.watchImageJob({ name: job?.name ?? "", resumeRevision: 0n }),
    );
    const last = events.at(-1)?.job;
    expect(last?.state).toBe(State.STATE_EXPIRED);
    expect(last?.error?.message).toMatch(/waited \d+ s/);
    client.close();
    await scheduler.terminate();
  });
});
