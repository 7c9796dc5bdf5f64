/** The scheduler while parts of the world break: groups, NATS, the scheduler itself. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import { Fence, ReportReply_Outcome } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { ImageJob_State as State, type ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";
import { imageBytes, ScriptedGroup, type ScriptedGroupOptions } from "../support/scripted-group.ts";
import { until } from "../support/until.ts";

let nats: NatsServer;
let bus: Bus;
let scheduler: SchedulerProcess;
let client: TestClient;
const groups: ScriptedGroup[] = [];
const others: SchedulerProcess[] = [];

beforeEach(async () => {
  nats = await startNats();
  scheduler = await startScheduler(nats.url);
  bus = await connectBus({ url: nats.url, name: "test group" });
  client = new TestClient(scheduler.address);
});

afterEach(async () => {
  client.close();
  for (const group of groups.splice(0)) await group.crash();
  await bus.close();
  for (const process of [scheduler, ...others.splice(0)]) await process.kill();
  await nats.close();
});

async function startGroup(options: ScriptedGroupOptions): Promise<ScriptedGroup> {
  const group = new ScriptedGroup(bus, options);
  groups.push(group);
  await group.start();
  return group;
}

const create = (spec: object, more: object = {}): Promise<ImageJob> =>
  client.call((c, done) =>
    c.createImageJob(CreateImageJobRequest.fromPartial({ spec, ...more }), done),
  );
const get = (name: string): Promise<ImageJob> =>
  client.call((c, done) => c.getImageJob({ name }, done));
const reaches = (name: string, state: State, timeoutMs = 20_000) =>
  until(async () => (await get(name)).state === state, timeoutMs);
const idOf = (name: string) => name.split("/")[3] ?? "";

async function expectImage(name: string, attempt: bigint): Promise<void> {
  const pieces = await client.collect(client.raw.readImage({ name, index: 0, offset: 0n }));
  const whole = imageBytes(`default/default/${idOf(name)}/${attempt}/0`, 300_000);
  expect(Buffer.concat(pieces.map((piece) => piece.chunk)).equals(whole)).toBe(true);
}

describe("a group", () => {
  test("that falls silent loses its jobs to another, and its late report is refused", async () => {
    const first = await startGroup({ group: "g0", mode: "hold" });
    const job = await create({ prompt: "moves" });
    await reaches(job.name, State.STATE_RUNNING);
    const [assign] = first.assigns;
    await first.crash();
    await startGroup({ group: "g1" });
    await reaches(job.name, State.STATE_SUCCEEDED, 30_000);
    const done = await get(job.name);
    expect(done.attempt).toBe(2n);
    await expectImage(job.name, 2n);
    const zombie = new ScriptedGroup(bus, { group: "g0" });
    const fence = Fence.fromPartial(assign?.fence ?? {});
    const heard = await zombie.report(fence, { $case: "finished", value: { units: [] } });
    expect(heard).toBe(ReportReply_Outcome.OUTCOME_STALE);
    expect((await get(job.name)).images[0]?.sha256).toBe(done.images[0]?.sha256);
  });

  test("of another model gets no job that was admitted for the one before", async () => {
    const old = await startGroup({ group: "g0", mode: "hold", residentsMax: 1 });
    await reaches((await create({ prompt: "holds the place" })).name, State.STATE_RUNNING);
    const waits = await create({ prompt: "waits for its model" });
    await old.crash();
    const other = await startGroup({ group: "g1", digest: "1".repeat(64) });
    const drawn = await create({ prompt: "of the new model" });
    await reaches(drawn.name, State.STATE_SUCCEEDED);
    expect((await get(waits.name)).state).toBe(State.STATE_QUEUED);
    expect(other.assigns.map(({ fence }) => fence?.job)).toEqual([idOf(drawn.name)]);
    await startGroup({ group: "g2" });
    await reaches(waits.name, State.STATE_SUCCEEDED);
  });

  test("that starts anew gives its jobs back at once", async () => {
    const first = await startGroup({ group: "g0", mode: "hold", incarnation: "a" });
    const job = await create({ prompt: "again" });
    await reaches(job.name, State.STATE_RUNNING);
    await first.crash();
    const startMs = Date.now();
    await startGroup({ group: "g0", incarnation: "b" });
    await reaches(job.name, State.STATE_SUCCEEDED);
    expect(Date.now() - startMs).toBeLessThan(4_000);
    expect((await get(job.name)).attempt).toBe(2n);
  });

  test("that is full, or whose answer is lost, gets the job later under another attempt", async () => {
    const group = await startGroup({ group: "g0" });
    group.nextOutcome = 3;
    const full = await create({ prompt: "full" });
    await reaches(full.name, State.STATE_SUCCEEDED);
    expect((await get(full.name)).attempt).toBe(2n);
    group.nextOutcome = "silence";
    const lost = await create({ prompt: "lost" });
    await reaches(lost.name, State.STATE_SUCCEEDED);
    expect((await get(lost.name)).attempt).toBe(2n);
    const attempts = group.assigns
      .filter((assign) => assign.fence?.job === idOf(lost.name))
      .map((assign) => assign.fence?.attempt);
    expect(attempts).toEqual([1n, 2n]);
  });

  test("dies while a cancel is under way: the job is cancelled", async () => {
    const group = await startGroup({ group: "g0", mode: "hold", incarnation: "a" });
    const job = await create({ prompt: "cancelled" });
    await reaches(job.name, State.STATE_RUNNING);
    await group.crash();
    const cancelled = await client.call<ImageJob>((c, done) =>
      c.cancelImageJob({ name: job.name }, done),
    );
    expect(cancelled.state).toBe(State.STATE_CANCELLING);
    await startGroup({ group: "g0", incarnation: "b" });
    await reaches(job.name, State.STATE_CANCELLED);
  });
});

describe("the scheduler", () => {
  test("killed in mid-job goes on when it is started again, and nothing is done twice", async () => {
    const group = await startGroup({ group: "g0", stepMs: 50 });
    const requestId = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
    const job = await create({ prompt: "survives", numInferenceSteps: 100 }, { requestId });
    const waiting = await create({ prompt: "waits", numInferenceSteps: 5 });
    await reaches(job.name, State.STATE_RUNNING);
    await scheduler.kill();
    const restartMs = Date.now();
    scheduler = await startScheduler(nats.url);
    client.close();
    client = new TestClient(scheduler.address);
    await reaches(job.name, State.STATE_SUCCEEDED, 30_000);
    await reaches(waiting.name, State.STATE_SUCCEEDED, 30_000);
    expect(Date.now() - restartMs).toBeLessThan(20_000);
    expect((await get(job.name)).attempt).toBe(1n);
    expect(group.assigns.filter((a) => a.fence?.job === idOf(job.name))).toHaveLength(1);
    await expectImage(job.name, 1n);
    const again = await create({ prompt: "survives", numInferenceSteps: 100 }, { requestId });
    expect(again.name).toBe(job.name);
  });

  test("without a leader answers UNAVAILABLE with a time to wait; a standby takes over", async () => {
    await startGroup({ group: "g0" });
    await create({ prompt: "first" });
    const standby = await startScheduler(nats.url);
    others.push(standby);
    const other = new TestClient(standby.address);
    const viaStandby = () =>
      other.call<ImageJob>((c, done) =>
        c.createImageJob(CreateImageJobRequest.fromPartial({ spec: { prompt: "other" } }), done),
      );
    const made = await viaStandby();
    // A watch goes on at another replica: both count revisions alike.
    const watch = (from: TestClient, resumeRevision: bigint) =>
      from.collect(from.raw.watchImageJob({ name: made.name, resumeRevision }));
    const last = (await watch(client, 0n)).at(-1);
    expect((await watch(other, 0n)).at(-1)).toEqual(last);
    expect(await watch(other, last?.revision ?? 0n)).toEqual([]);
    await scheduler.kill();
    await expect(viaStandby()).rejects.toMatchObject({
      code: "unavailable",
      reason: "NO_LEADER",
      retryAfterMs: expect.any(Number),
    });
    const killedMs = Date.now();
    let job: ImageJob | undefined;
    await until(async () => {
      job = await viaStandby().catch(() => undefined);
      return job !== undefined;
    });
    expect(Date.now() - killedMs).toBeLessThan(8_000);
    await until(async () => {
      const now = await other.call<ImageJob>((c, done) =>
        c.getImageJob({ name: job?.name ?? "" }, done),
      );
      return now.state === State.STATE_SUCCEEDED;
    }, 20_000);
    other.close();
  });

  test("drains on SIGTERM: watches end with UNAVAILABLE, the lease is free at once", async () => {
    await startGroup({ group: "g0", mode: "hold" });
    const job = await create({ prompt: "held" });
    const watch = client.collect(client.raw.watchImageJob({ name: job.name, resumeRevision: 0n }));
    const ended = expect(watch).rejects.toMatchObject({
      code: "unavailable",
      reason: "SHUTTING_DOWN",
    });
    await reaches(job.name, State.STATE_RUNNING);
    expect(await scheduler.terminate()).toBe(0);
    await ended;
    const startMs = Date.now();
    scheduler = await startScheduler(nats.url);
    client.close();
    client = new TestClient(scheduler.address);
    await until(() =>
      create({ prompt: "next" })
        .then(() => true)
        .catch(() => false),
    );
    expect(Date.now() - startMs).toBeLessThan(4_000);
  });
});

describe("NATS", () => {
  test("killed and started again in mid-job: the watch goes on and the job ends", async () => {
    const group = await startGroup({ group: "g0", mode: "hold" });
    const job = await create({ prompt: "outage" });
    await reaches(job.name, State.STATE_RUNNING);
    const watch = client.collect(client.raw.watchImageJob({ name: job.name, resumeRevision: 0n }));
    await nats.kill();
    await until(() =>
      get(job.name)
        .then(() => false)
        .catch((e) => e.code === "unavailable"),
    );
    await expect(create({ prompt: "meanwhile" })).rejects.toMatchObject({
      code: "unavailable",
      retryAfterMs: expect.any(Number),
    });
    await new Promise((resolve) => setTimeout(resolve, 6_000));
    await nats.restart();
    await until(() => bus.connected);
    expect(await group.finish(idOf(job.name))).toBe(ReportReply_Outcome.OUTCOME_RECORDED);
    const events = await watch;
    expect(events.at(-1)?.job).toMatchObject({ state: State.STATE_SUCCEEDED, attempt: 1n });
    await expectImage(job.name, 1n);
    const next = await create({ prompt: "after" });
    await until(() => group.residents.has(idOf(next.name)));
  });

  test("that hangs for a while does not look like the death of a group", async () => {
    const group = await startGroup({ group: "g0", mode: "hold" });
    const job = await create({ prompt: "hang" });
    await reaches(job.name, State.STATE_RUNNING);
    nats.pause();
    await new Promise((resolve) => setTimeout(resolve, 8_000));
    nats.resume();
    await until(
      () =>
        get(job.name)
          .then(() => true)
          .catch(() => false),
      20_000,
    );
    expect(await group.finish(idOf(job.name))).toBe(ReportReply_Outcome.OUTCOME_RECORDED);
    await reaches(job.name, State.STATE_SUCCEEDED);
    expect((await get(job.name)).attempt).toBe(1n);
  });
});
