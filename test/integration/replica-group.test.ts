/**
 * Two real replica groups on a real bus with a real scheduler: hand-over, death, freezing, and a
 * group that only simulates. Whatever happens, a picture has the bytes that it has undisturbed.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, cpSync, openSync, rmSync, writeSync, closeSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type ImageJob, ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import {
  groupBeingStarted,
  type GroupProcess,
  startGroupProcess,
} from "../support/group-process.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";
import { until } from "../support/until.ts";

const model = fileURLToPath(new URL("../golden/data/checkpoints/dev-like", import.meta.url));
/** Enough steps to be in the middle of them for a second or two. */
const LONG = {
  prompt: "a photo of a red cat",
  numInferenceSteps: 400,
  seed: 5n,
  width: 64,
  height: 64,
};

let nats: NatsServer;
let scheduler: SchedulerProcess;
let client: TestClient;
let undisturbed = "";
const groups: GroupProcess[] = [];
const simulated = ["--provider", "simulated"];

async function group(name: string, ...options: string[]): Promise<GroupProcess> {
  const started = await startGroupProcess(nats.url, model, ["--group", name, ...options]);
  groups.push(started);
  return started;
}

const create = (spec: object): Promise<ImageJob> =>
  client.call((c, done) => c.createImageJob(CreateImageJobRequest.fromPartial({ spec }), done));
const get = (name: string): Promise<ImageJob> =>
  client.call((c, done) => c.getImageJob({ name }, done));
const ended = async (name: string): Promise<ImageJob> => {
  await until(async () => (await get(name)).state >= State.STATE_SUCCEEDED, 60_000);
  return get(name);
};
/** Resolves when the job has done at least so many steps. */
const reaches = (name: string, steps: number): Promise<void> =>
  until(async () => ((await get(name)).progress?.step ?? 0) >= steps, 30_000);

async function pictureOf(name: string, index = 0): Promise<string> {
  const pieces = await client.collect(client.raw.readImage({ name, index, offset: 0n }));
  return createHash("sha256")
    .update(Buffer.concat(pieces.map(({ chunk }) => chunk)))
    .digest("hex");
}

async function expectUndisturbed(name: string): Promise<ImageJob> {
  const job = await ended(name);
  expect(job.state, job.error?.message).toBe(State.STATE_SUCCEEDED);
  expect(await pictureOf(name)).toBe(undisturbed);
  return job;
}

/** The step from which a group says that it went on with image 0; NaN if it began anew. */
function stepTakenUp(group: GroupProcess): number {
  return Number(/image 0 from step (\d+)/.exec(group.log())?.[1]);
}

beforeAll(async () => {
  await begin();
  await group("g0");
  const { name } = await create(LONG);
  expect((await ended(name)).state).toBe(State.STATE_SUCCEEDED);
  undisturbed = await pictureOf(name);
  await finish();
});

async function begin(): Promise<void> {
  nats = await startNats();
  scheduler = await startScheduler(nats.url);
  client = new TestClient(scheduler.address);
}

async function finish(): Promise<void> {
  client.close();
  for (const one of groups.splice(0)) await one.kill();
  await scheduler.kill();
  await nats.close();
}

describe("a job", () => {
  beforeEach(begin);
  afterEach(finish);

  test("goes on at another group from the very step at which its group was drained", async () => {
    const first = await group("g0");
    const { name } = await create(LONG);
    await reaches(name, 100);
    await group("g1");
    expect(await first.terminate()).toBe(0);
    const job = await expectUndisturbed(name);
    expect(job.attempt).toBe(2n);
    expect(stepTakenUp(groups[1]!)).toBeGreaterThanOrEqual(100);
  });

  test("goes on elsewhere from its last checkpoint when its group dies", async () => {
    const first = await group("g0", "--checkpoint-every-ms", "100");
    const { name } = await create(LONG);
    await reaches(name, 150);
    await group("g1");
    await first.kill();
    const job = await expectUndisturbed(name);
    expect(job.attempt).toBe(2n);
    expect(stepTakenUp(groups[1]!)).toBeGreaterThan(0);
  });

  test("begins anew elsewhere when its group dies before a checkpoint", async () => {
    const first = await group("g0", "--checkpoint-every-ms", "0");
    const { name } = await create(LONG);
    await reaches(name, 50);
    await group("g1");
    await first.kill();
    const job = await expectUndisturbed(name);
    expect(job.attempt).toBe(2n);
    expect(stepTakenUp(groups[1]!)).toBeNaN();
  });

  test("is not touched by its former group, frozen for lost, that thaws", async () => {
    const first = await group("g0");
    const { name } = await create(LONG);
    await reaches(name, 50);
    await group("g1");
    first.freeze();
    const job = await expectUndisturbed(name);
    expect(job.attempt).toBe(2n);
    first.thaw();
    await until(() => /stale/.test(first.log()), 20_000);
    expect(await pictureOf(name)).toBe(undisturbed);
    expect((await get(name)).attempt).toBe(2n);
  });

  test("is handed over although its step would take longer than a drain may", async () => {
    const first = await group("slow", ...simulated, "--simulated-step-seconds", "4");
    const { name } = await create({ ...LONG, numInferenceSteps: 5 });
    await reaches(name, 1);
    expect(await first.terminate()).toBe(0);
    await group("fast", ...simulated, "--simulated-step-seconds", "0.005");
    expect((await ended(name)).state).toBe(State.STATE_SUCCEEDED);
    expect(stepTakenUp(groups[1]!)).toBe(1);
  });

  test("of several images shares batches with others and keeps its bytes", async () => {
    await group("g0", "--max-batch", "4");
    const names = await Promise.all(
      [1, 2, 3].map(async (n) => {
        const spec = { ...LONG, numInferenceSteps: 40 + n, seed: BigInt(n), imageCount: n };
        return (await create(spec)).name;
      }),
    );
    const long = await create(LONG);
    for (const [i, name] of names.entries()) expect((await ended(name)).images).toHaveLength(i + 1);
    await expectUndisturbed(long.name);
  });

  test("on simulated devices ends like any other, and says that it was simulated", async () => {
    await group("sim", ...simulated, "--simulated-step-seconds", "0.005");
    const { name } = await create({ ...LONG, numInferenceSteps: 4 });
    const job = await ended(name);
    expect(job.state).toBe(State.STATE_SUCCEEDED);
    expect(job.simulated).toBe(true);
    const pieces = await client.collect(client.raw.readImage({ name, index: 0, offset: 0n }));
    const file = Buffer.concat(pieces.map(({ chunk }) => chunk));
    expect(file.includes("simulated")).toBe(true);
    expect(groups[0]!.log()).toContain("simulated");
  });
});

test("a group that waits for a scheduler ends at once when it is told to", async () => {
  nats = await startNats();
  const waiting = startGroupProcess(nats.url, model, ["--group", "g0"]);
  const told = setTimeout(() => groupBeingStarted()?.kill("SIGTERM"), 2_000);
  await expect(waiting).rejects.toThrow("GPU node ended (0)");
  clearTimeout(told);
  await nats.close();
});

describe("a checkpoint whose weights are not numbers", () => {
  let folder = "";
  beforeEach(begin);
  afterEach(finish);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("fails the job with the reason, and the group lives on", async () => {
    folder = mkdtempSync(join(tmpdir(), "fluxline-nan-"));
    cpSync(model, folder, { recursive: true });
    spoil(join(folder, "transformer/diffusion_pytorch_model.safetensors"), "proj_out.bias");
    const started = await startGroupProcess(nats.url, folder, ["--group", "g0"]);
    groups.push(started);
    const { name } = await create({ ...LONG, numInferenceSteps: 3 });
    const job = await ended(name);
    expect(job.state).toBe(State.STATE_FAILED);
    expect(job.error?.message).toContain("stopped being finite numbers at step 1");
    expect(started.child.exitCode).toBeNull();
  });
});

/** Writes NaN over the first value of a tensor. */
function spoil(file: string, tensor: string): void {
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, 8 + headerBytes).toString()) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const value = Buffer.alloc(4);
  value.writeFloatLE(Number.NaN);
  const descriptor = openSync(file, "r+");
  writeSync(descriptor, value, 0, 4, 8 + headerBytes + header[tensor]!.data_offsets[0]);
  closeSync(descriptor);
}
