/**
 * What a pool's devices have no memory for is refused before it is queued, with the numbers, and
 * also once its last group is gone.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { type AppError, toAppError } from "@fluxline/kernel/error.ts";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import type { ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import type { Pool } from "@fluxline/proto/fluxline/v1/pool.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";
import { ScriptedGroup } from "../support/scripted-group.ts";

const GIB = 2 ** 30;
const MEGAPIXEL = 1024 * 1024;

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
  const memory = [
    {
      device: "rank 0",
      availableBytes: BigInt(24 * GIB),
      fixedBytes: BigInt(20 * GIB),
      rowBytesPerPixel: GIB / MEGAPIXEL,
      rowBytesPerTextToken: GIB / 512,
      decodeBytesPerPixel: GIB / MEGAPIXEL,
      decodePixelsMax: 0n,
      encodeBytesPerTextToken: 0,
    },
  ];
  group = new ScriptedGroup(bus, { memory: memory as never });
  await group.start();
});

afterAll(async () => {
  client?.close();
  await group?.crash();
  await bus?.close();
  await scheduler?.terminate();
  await nats?.close();
});

const create = (spec: object): Promise<ImageJob> =>
  client.call((c, done) => c.createImageJob(CreateImageJobRequest.fromPartial({ spec }), done));

const refusal = (spec: object): Promise<AppError | ImageJob> => create(spec).catch(toAppError);

const tooLarge = { prompt: "p", width: 2048, height: 1024, maxSequenceLength: 512 };

test("a picture that fits is taken", async () => {
  expect((await create({ ...tooLarge, width: 1024 })).name).not.toBe("");
});

test("one that does not is INVALID_ARGUMENT, DOES_NOT_FIT, with the largest that does", async () => {
  const error = await refusal(tooLarge);
  expect(error).toMatchObject({ code: "invalid_argument", reason: "DOES_NOT_FIT" });
  expect(error).toMatchObject({
    violations: [
      {
        field: "spec.width",
        description: expect.stringMatching(
          /needs 25\.0 GiB on rank 0, which has 24\.0 .*that fits is 1760 x 880$/,
        ),
      },
    ],
  });
});

test("true guidance that does not fit is named", async () => {
  const guided = { ...tooLarge, width: 1024, trueCfgScale: 4, negativePrompt: "blurry" };
  expect(await refusal(guided)).toMatchObject({
    reason: "DOES_NOT_FIT",
    violations: ["width", "true_cfg_scale", "max_sequence_length"].map((field) => ({
      field: `spec.${field}`,
    })),
  });
});

test("the pool says how many pixels a request may have, and that many fit", async () => {
  const pool = await client.call<Pool>((c, done) => c.getPool({ name: "pools/default" }, done));
  // 24 - 20 - 64/512 GiB over 2 GiB a megapixel.
  expect(pool.limits?.maxPixels).toBe(BigInt(Math.floor((4 - 64 / 512) * 0.5 * MEGAPIXEL)));
});

test("a pool whose last group is gone still refuses it", async () => {
  await group.crash();
  expect(await refusal(tooLarge)).toMatchObject({ reason: "DOES_NOT_FIT" });
});
