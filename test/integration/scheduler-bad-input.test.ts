/** What a client may get wrong, through real gRPC: each is a typed error with the way out. */
import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { AppError } from "@fluxline/kernel/error.ts";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import { fromServiceError } from "@fluxline/platform/grpc/status.ts";
import type { ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { freePort, type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";
import { ScriptedGroup } from "../support/scripted-group.ts";

let nats: NatsServer;
let bus: Bus;
let scheduler: SchedulerProcess;
let client: TestClient;
let group: ScriptedGroup;

beforeAll(async () => {
  nats = await startNats();
  scheduler = await startScheduler(nats.url, { FLUXLINE_QUEUED_JOBS_MAX: "3" });
  bus = await connectBus({ url: nats.url, name: "test group" });
  client = new TestClient(scheduler.address);
  group = new ScriptedGroup(bus, { mode: "hold", residentsMax: 1 });
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

async function refusal(work: Promise<unknown>): Promise<AppError> {
  try {
    await work;
  } catch (thrown) {
    return thrown as AppError;
  }
  return expect.unreachable("it was not refused");
}

describe("a request with one wrong field", () => {
  test.each<[string, object, string, RegExp]>([
    ["width 0", { width: 0 }, "spec.width", /is 0/],
    ["width -8", { width: -8 }, "spec.width", /is -8/],
    ["width 7", { width: 7 }, "spec.width", /16/],
    ["width 65", { width: 65 }, "spec.width", /64/],
    ["width 100000", { width: 100_000 }, "spec.width", /2048/],
    ["height 65", { height: 65 }, "spec.height", /64/],
    ["steps 0", { numInferenceSteps: 0 }, "spec.num_inference_steps", /from 1 to 200/],
    ["steps 10^6", { numInferenceSteps: 1_000_000 }, "spec.num_inference_steps", /is 1000000/],
    ["guidance NaN", { guidanceScale: NaN }, "spec.guidance_scale", /is NaN/],
    ["guidance infinite", { guidanceScale: Infinity }, "spec.guidance_scale", /Infinity/],
    ["a prompt of 1 MB", { prompt: "x".repeat(1_000_000) }, "spec.prompt", /16384/],
    ["a control character", { prompt: "a\u0000b" }, "spec.prompt", /U\+0000/],
    ["no images", { imageCount: 0 }, "spec.image_count", /from 1 to 4/],
    ["previews below 0", { previewCount: -1 }, "spec.preview_count", /is -1.* from 0 to 16/],
    ["too many previews", { previewCount: 17 }, "spec.preview_count", /is 17.* from 0 to 16/],
    ["an aspect ratio that is none", { aspectRatio: "wide" }, "spec.aspect_ratio", /wide/],
    ["an unknown format", { outputFormat: 9 }, "spec.output_format", /is 9/],
    ["an unknown priority", { priority: 7 }, "spec.priority", /is 7; use 1/],
    ["quality 0", { outputFormat: 2, outputQuality: 0 }, "spec.output_quality", /1 to 100/],
    ["a quality of png", { outputFormat: 1, outputQuality: 90 }, "spec.output_quality", /png/],
    [
      "a queue timeout of 0",
      { queueTimeout: { seconds: 0n, nanos: 0 } },
      "spec.queue_timeout",
      /0/,
    ],
    ["an expire time that was", { expireTime: new Date(0) }, "spec.expire_time", /1970/],
    ["a long end user", { endUserId: "u".repeat(300) }, "spec.end_user_id", /256/],
  ])("%s: INVALID_ARGUMENT names it and the way out", async (_, wrong, field, way) => {
    const error = await refusal(create({ prompt: "p", ...wrong }));
    expect(error).toMatchObject({ code: "invalid_argument", reason: "INVALID_REQUEST" });
    expect(error.violations.map((violation) => violation.field)).toEqual([field]);
    expect(error.violations[0]?.description).toMatch(way);
  });

  test("every wrong field is named at once", async () => {
    const wrong = { prompt: "p", width: 7, guidanceScale: NaN, numInferenceSteps: 0 };
    const error = await refusal(create(wrong, { requestId: "not-a-uuid" }));
    expect(error.violations.map((violation) => violation.field).sort()).toEqual([
      "request_id",
      "spec.guidance_scale",
      "spec.num_inference_steps",
      "spec.width",
    ]);
  });

  test.each<[string, object]>([
    ["input_images", { inputImages: [{}] }],
    ["mask", { mask: {} }],
    ["strength", { strength: 0.5 }],
    ["webhook", { webhook: { uri: "http://localhost" } }],
  ])(
    "%s belongs to a feature that comes later: UNIMPLEMENTED with its name",
    async (field, given) => {
      const error = await refusal(create({ prompt: "p", ...given }));
      expect(error).toMatchObject({ code: "unimplemented", reason: "FIELD_NOT_IMPLEMENTED" });
      expect(error.violations.map((violation) => violation.field)).toEqual([`spec.${field}`]);
    },
  );
});

describe("bytes that no generated client sends", () => {
  const send = async (bytes: Buffer): Promise<AppError> => {
    const raw = new Client(scheduler.address, credentials.createInsecure(), {
      "grpc.max_send_message_length": -1,
    });
    const { promise, resolve, reject } = Promise.withResolvers<AppError>();
    raw.makeUnaryRequest(
      "/fluxline.v1.ImageService/CreateImageJob",
      (value: Buffer) => value,
      (value: Buffer) => value,
      bytes,
      (error: ServiceError | null) => {
        if (error) resolve(fromServiceError(error));
        else reject(new Error("it was taken"));
      },
    );
    return promise.finally(() => raw.close());
  };

  test("a prompt that is not UTF-8 is refused with its field, not mended", async () => {
    const request = CreateImageJobRequest.encode(
      CreateImageJobRequest.fromPartial({ spec: { prompt: "caf\u00e9" } }),
    ).finish();
    const bytes = Buffer.from(request);
    bytes.writeUInt8(0xff, bytes.indexOf(0xc3));
    const error = await send(bytes);
    expect(error).toMatchObject({ code: "invalid_argument" });
    expect(error.violations).toMatchObject([
      { field: "spec.prompt", description: expect.stringMatching(/not UTF-8/) },
    ]);
  });

  test("what is no message is refused as that", async () => {
    expect(await send(Buffer.from([0x12, 0x7f, 0x01]))).toMatchObject({
      code: "invalid_argument",
      reason: "MALFORMED_MESSAGE",
    });
  });

  test("a message above the limit is refused with both sizes", async () => {
    const error = await send(Buffer.alloc(5 * 1024 * 1024));
    expect(error).toMatchObject({ code: "resource_exhausted", reason: "MESSAGE_TOO_LARGE" });
    expect(error.message).toMatch(/5242880 bytes.*4194304/);
  });

  test("a message far above the limit is refused before it is read", async () => {
    const error = await send(Buffer.alloc(80 * 1024 * 1024));
    expect(error.code).toBe("resource_exhausted");
  });
});

describe("names, pages and pools", () => {
  test.each([
    ["an unknown pool", () => create({ prompt: "p" }, { pool: "other" }), "POOL_NOT_FOUND"],
    ["a bad pool name", () => create({ prompt: "p" }, { pool: "a/b" }), "INVALID_NAME"],
    ["a name of another form", () => get("jobs/1"), "INVALID_NAME"],
    ["a pool that no pool can be called", () => get("pools/-a/jobs/x"), "INVALID_NAME"],
    ["an empty name", () => get(""), "INVALID_NAME"],
    ["a job that is not", () => get("pools/default/jobs/abc"), "JOB_NOT_FOUND"],
    ["a job of an unknown pool", () => get("pools/other/jobs/abc"), "POOL_NOT_FOUND"],
    ["a cancel of no job", () => cancel("pools/default/jobs/abc"), "JOB_NOT_FOUND"],
    ["a negative page size", () => list({ pageSize: -1 }), "INVALID_REQUEST"],
    ["a page token of nowhere", () => list({ pageToken: "xyz" }), "INVALID_PAGE_TOKEN"],
    ["a state that is none", () => list({ states: [77] }), "INVALID_REQUEST"],
    ["a watch of no job", () => watch("pools/default/jobs/abc"), "JOB_NOT_FOUND"],
    ["an image of no job", () => read("pools/default/jobs/abc", 0), "JOB_NOT_FOUND"],
  ])("%s", async (_, work, reason) => {
    expect((await refusal(work())).reason).toBe(reason);
  });

  test("an unknown pool names the known ones", async () => {
    const error = await refusal(create({ prompt: "p" }, { pool: "other" }));
    expect(error.code).toBe("not_found");
    expect(error.message).toMatch(/"other".*use one of default/);
  });

  const get = (name: string) => client.call((c, done) => c.getImageJob({ name }, done));
  const cancel = (name: string) => client.call((c, done) => c.cancelImageJob({ name }, done));
  const list = (given: object) =>
    client.call((c, done) =>
      c.listImageJobs({ pool: "", pageSize: 0, pageToken: "", states: [], ...given }, done),
    );
  const watch = (name: string) =>
    client.collect(client.raw.watchImageJob({ name, resumeRevision: 0n }));
  const read = (name: string, index: number, offset = 0n) =>
    client.collect(client.raw.readImage({ name, index, offset }));

  test("a full queue says how long to wait; an image that is not there yet says so", async () => {
    const names: string[] = [];
    for (let i = 0; i < 4; i++) names.push((await create({ prompt: `full ${i}` })).name);
    const error = await refusal(create({ prompt: "one too many" }));
    expect(error).toMatchObject({ code: "resource_exhausted", reason: "QUEUE_FULL" });
    expect(error.retryAfterMs).toBeGreaterThan(0);
    const [first = ""] = names;
    expect(await refusal(read(first, 0))).toMatchObject({
      code: "failed_precondition",
      reason: "IMAGE_NOT_READY",
    });
    expect((await refusal(read(first, 1))).violations[0]?.field).toBe("index");
    expect((await refusal(read(first, -1))).violations[0]?.field).toBe("index");
    await group.finish(first.split("/")[3] ?? "");
    expect((await refusal(read(first, 0, 300_001n))).reason).toBe("OFFSET_OUT_OF_RANGE");
    expect(await read(first, 0, 300_000n)).toEqual([]);
    const queued = await client.call<ImageJob>((c, done) =>
      c.getImageJob({ name: names[3] ?? "" }, done),
    );
    expect(queued.queuePosition).toBe(1);
  });
});

describe("a start that cannot work", () => {
  test("NATS is not there: the address and the way out", async () => {
    const url = `nats://127.0.0.1:${await freePort()}`;
    const error = await refusal(startScheduler(url, { FLUXLINE_NATS_WAIT_SECONDS: "0" }));
    expect(error).toMatchObject({ reason: "NATS_UNREACHABLE" });
    expect(error.message).toContain(url);
  });

  test("the port is taken", async () => {
    const port = scheduler.address.split(":")[1] ?? "";
    const error = await refusal(startScheduler(nats.url, { FLUXLINE_PORT: port }));
    expect(error).toMatchObject({ reason: "ADDRESS_UNAVAILABLE" });
    expect(error.message).toContain(port);
  });

  test("every wrong setting is named", async () => {
    const env = { FLUXLINE_PORT: "99999", FLUXLINE_LOG_LEVEL: "loud" };
    const error = await refusal(startScheduler(nats.url, env));
    expect(error.message).toMatch(/FLUXLINE_PORT.*FLUXLINE_LOG_LEVEL/);
  });

  test("a group of a pool that is not served is refused", async () => {
    const strict = await startScheduler(nats.url, { FLUXLINE_POOLS: "other" });
    const outsider = new ScriptedGroup(bus, { pool: "third", group: "g9" });
    const seen: string[] = [];
    for (let i = 0; i < 20 && !seen.includes("refused"); i++) {
      seen.push((await outsider.register())?.outcome?.$case ?? "");
    }
    expect(seen).toContain("refused");
    await strict.terminate();
  });
});
