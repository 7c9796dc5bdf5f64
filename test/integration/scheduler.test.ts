/** The scheduler's public API, with a real nats-server, a real process and a scripted group. */
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import { ImageJob_State as State, type ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";
import {
  CreateImageJobRequest,
  GenerateImageRequest,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";
import { imageBytes, ScriptedGroup } from "../support/scripted-group.ts";
import { until } from "../support/until.ts";

let nats: NatsServer;
let bus: Bus;
let scheduler: SchedulerProcess;
let client: TestClient;
let group: ScriptedGroup;

beforeAll(async () => {
  nats = await startNats();
  scheduler = await startScheduler(nats.url);
  bus = await connectBus({ url: nats.url, name: "test group" });
  client = new TestClient(scheduler.address);
  group = new ScriptedGroup(bus, { stepMs: 10 });
  await group.start();
});

afterAll(async () => {
  client?.close();
  await group?.crash();
  await bus?.close();
  await scheduler?.terminate();
  await nats?.close();
});

const create = (spec: object, more: object = {}): Promise<ImageJob> =>
  client.call((c, done) =>
    c.createImageJob(CreateImageJobRequest.fromPartial({ spec, ...more }), done),
  );
const get = (name: string): Promise<ImageJob> =>
  client.call((c, done) => c.getImageJob({ name }, done));
const cancel = (name: string): Promise<ImageJob> =>
  client.call((c, done) => c.cancelImageJob({ name }, done));
const ended = (name: string, state: State) => until(async () => (await get(name)).state === state);

describe("one job", () => {
  test("is created with every default filled in, watched to its end, and read", async () => {
    const job = await create({ prompt: "a red cube", numInferenceSteps: 6 });
    expect(job.name).toMatch(/^pools\/default\/jobs\/[0-9a-z]{26}$/);
    expect(job.spec).toMatchObject({
      prompt: "a red cube",
      prompt2: "a red cube",
      width: 64,
      height: 64,
      numInferenceSteps: 6,
      guidanceScale: 3.5,
      imageCount: 1,
      outputFormat: 1,
      priority: 2,
    });
    expect(job.spec?.seed).toBeTypeOf("bigint");
    const events = await client.collect(
      client.raw.watchImageJob({ name: job.name, resumeRevision: 0n }),
    );
    const revisions = events.map((event) => event.revision);
    expect(revisions).toEqual(revisions.toSorted((a, b) => (a < b ? -1 : 1)));
    expect(new Set(revisions).size).toBe(revisions.length);
    const last = events.at(-1)?.job;
    expect(last?.state).toBe(State.STATE_SUCCEEDED);
    expect(last?.progress).toMatchObject({ step: 6, totalSteps: 6 });
    expect(last).toMatchObject({ numericsClass: "scripted", attempt: 1n, simulated: false });
    const steps = events.map((event) => event.job?.progress?.step ?? 0);
    expect(steps.filter((step) => step > 0 && step < 6).length).toBeGreaterThan(1);
    const [image] = last?.images ?? [];
    expect(image).toMatchObject({ index: 0, width: 64, height: 64, sizeBytes: 300_000n });

    const id = job.name.split("/")[3] ?? "";
    const whole = imageBytes(`default/default/${id}/1/0`, 300_000);
    const pieces = await client.collect(
      client.raw.readImage({ name: job.name, index: 0, offset: 0n }),
    );
    expect(Buffer.concat(pieces.map((piece) => piece.chunk)).equals(whole)).toBe(true);
    expect(pieces.every((piece) => piece.chunk.length <= 256 * 1024)).toBe(true);
    expect(pieces[0]).toMatchObject({ totalBytes: 300_000n, contentType: "image/png" });
    const tail = await client.collect(
      client.raw.readImage({ name: job.name, index: 0, offset: 299_000n }),
    );
    expect(tail[0]?.offset).toBe(299_000n);
    expect(Buffer.concat(tail.map((p) => p.chunk)).equals(whole.subarray(299_000))).toBe(true);

    const resumed = await client.collect(
      client.raw.watchImageJob({ name: job.name, resumeRevision: revisions.at(-2) ?? 0n }),
    );
    expect(resumed.map((event) => event.revision)).toEqual(revisions.slice(-1));
    const nothing = await client.collect(
      client.raw.watchImageJob({ name: job.name, resumeRevision: revisions.at(-1) ?? 0n }),
    );
    expect(nothing).toEqual([]);
  });

  test("takes its class, its share and its deadline to the group", async () => {
    const expireTime = new Date(Date.now() + 3_600_000);
    const job = await create({ prompt: "a red cube", priority: 3, expireTime });
    await ended(job.name, State.STATE_SUCCEEDED);
    expect(job.spec).toMatchObject({ priority: 3 });
    const assign = group.assigns.find(({ fence }) => job.name.endsWith(fence?.job ?? "-"));
    expect(assign).toMatchObject({ priority: 3, share: 1, deadline: expireTime });
    expect(assign?.arrivalTime).toEqual(job.createTime);
  });

  test("with the same request_id is the same job; with other content it is refused", async () => {
    const requestId = "0f8fad5b-d9cb-469f-a165-70867728950e";
    const spec = { prompt: "twice" };
    const [first, second] = await Promise.all([
      create(spec, { requestId }),
      create(spec, { requestId: requestId.toUpperCase() }),
    ]);
    expect(second?.name).toBe(first?.name);
    expect(second?.spec?.seed).toBe(first?.spec?.seed);
    await expect(create({ prompt: "other" }, { requestId })).rejects.toMatchObject({
      code: "already_exists",
      reason: "REQUEST_ID_REUSED",
      details: { job: first?.name },
    });
  });

  test("of several images gives each of them", async () => {
    const events = await client.collect(
      client.raw.generateImage(
        GenerateImageRequest.fromPartial({ spec: { prompt: "three", imageCount: 3 } }),
      ),
    );
    const images = new Map<number, Buffer[]>();
    let name = "";
    for (const { event } of events) {
      if (event?.$case === "jobEvent") name = event.value.job?.name ?? name;
      if (event?.$case !== "imageChunk") continue;
      const chunks = images.get(event.value.index) ?? [];
      chunks.push(event.value.chunk as Buffer);
      images.set(event.value.index, chunks);
    }
    expect([...images.keys()]).toEqual([0, 1, 2]);
    const id = name.split("/")[3];
    for (const [index, chunks] of images) {
      const whole = imageBytes(`default/default/${id}/1/${index}`, 300_000);
      expect(Buffer.concat(chunks).equals(whole)).toBe(true);
    }
  });

  test("is cancelled within a step, and cancelling it again changes nothing", async () => {
    const { name } = await create({ prompt: "long", numInferenceSteps: 200 });
    await until(async () => ((await get(name)).progress?.step ?? 0) >= 2);
    const reached = (await get(name)).progress?.step ?? 0;
    // The answer is what is so by then.
    const { state } = await cancel(name);
    expect([State.STATE_CANCELLING, State.STATE_CANCELLED]).toContain(state);
    await ended(name, State.STATE_CANCELLED);
    const again = await cancel(name);
    expect(again.state).toBe(State.STATE_CANCELLED);
    // Where it stopped stays to be seen.
    expect(again.progress?.step).toBeGreaterThanOrEqual(reached);
    expect(again.progress).toMatchObject({ totalSteps: 200 });
    await expect(
      client.collect(client.raw.readImage({ name, index: 0, offset: 0n })),
    ).rejects.toMatchObject({ code: "failed_precondition", reason: "IMAGE_NOT_MADE" });
  });

  test("of a client that goes away in GenerateImage is cancelled", async () => {
    const stream = client.raw.generateImage(
      GenerateImageRequest.fromPartial({ spec: { prompt: "gone", numInferenceSteps: 200 } }),
    );
    const named = Promise.withResolvers<string>();
    stream.on("data", ({ event }) => {
      const state = event?.$case === "jobEvent" ? event.value.job?.state : undefined;
      if (state === State.STATE_RUNNING) named.resolve(event.value.job.name);
    });
    stream.on("error", () => {});
    const name = await named.promise;
    stream.cancel();
    await ended(name, State.STATE_CANCELLED);
  });

  test("of an earlier call goes on when a GenerateImage that found it goes away", async () => {
    const requestId = randomUUID();
    const spec = { prompt: "mine", numInferenceSteps: 60 };
    const { name } = await create(spec, { requestId });
    const stream = client.raw.generateImage(GenerateImageRequest.fromPartial({ spec, requestId }));
    const heard = Promise.withResolvers<string>();
    stream.once("data", ({ event }) => heard.resolve(event?.value.job?.name));
    stream.on("error", () => {});
    expect(await heard.promise).toBe(name);
    stream.cancel();
    await ended(name, State.STATE_SUCCEEDED);
  });

  test("whose group refuses the client's wish fails the one-call stream with the reason", async () => {
    group.nextOutcome = 5;
    await expect(
      client.collect(
        client.raw.generateImage(GenerateImageRequest.fromPartial({ spec: { prompt: "no" } })),
      ),
    ).rejects.toMatchObject({ reason: "NO_REASON_GIVEN" });
  });
});

describe("lists", () => {
  test("jobs come newest first, page by page, each once", async () => {
    const names: string[] = [];
    for (let i = 0; i < 7; i++) names.unshift((await create({ prompt: `list ${i}` })).name);
    const listed: string[] = [];
    let pageToken = "";
    for (let pages = 0; pages < 3; pages++) {
      const page = await client.call<{ jobs: ImageJob[]; nextPageToken: string }>((c, done) =>
        c.listImageJobs({ pool: "", pageSize: 3, pageToken, states: [] }, done),
      );
      listed.push(...page.jobs.map((job) => job.name));
      pageToken = page.nextPageToken;
    }
    expect(listed.slice(0, 7)).toEqual(names);
    expect(new Set(listed).size).toBe(9);
    for (const name of names) await ended(name, State.STATE_SUCCEEDED);
    const cancelled = await client.call<{ jobs: ImageJob[] }>((c, done) =>
      c.listImageJobs(
        { pool: "default", pageSize: 0, pageToken: "", states: [State.STATE_CANCELLED] },
        done,
      ),
    );
    expect(cancelled.jobs.length).toBeGreaterThan(0);
    expect(cancelled.jobs.every((job) => job.state === State.STATE_CANCELLED)).toBe(true);
  });

  test("the pool shows model, limits, defaults and queue", async () => {
    const pool = await client.call((c, done) => c.getPool({ name: "pools/default" }, done));
    expect(pool).toMatchObject({
      name: "pools/default",
      model: { name: "scripted", family: "flux1" },
      limits: { sizeMultiple: 16, maxSteps: 200 },
      defaults: { width: 64, numInferenceSteps: 4 },
      modes: ["text-to-image"],
      queue: { groups: 1, maxQueuedJobs: 1000, queuedJobs: 0 },
    });
    const { pools } = await client.call<{ pools: { name: string }[] }>((c, done) =>
      c.listPools({ pageSize: 0, pageToken: "" }, done),
    );
    expect(pools.map(({ name }) => name)).toEqual(["pools/default"]);
  });
});
