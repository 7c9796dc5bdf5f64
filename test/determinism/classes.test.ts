/**
 * Across numerics classes nothing is promised but honesty, with real groups and a real scheduler: a
 * job that is moved to a group of another class begins at step 0 again, says so, and gives that
 * class's picture, as if it had been there from the start.
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type ImageJob, ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { type GroupProcess, startGroupProcess } from "../support/group-process.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";
import { until } from "../support/until.ts";

const model = fileURLToPath(new URL("../golden/data/checkpoints/dev-like", import.meta.url));
/** Enough steps to be moved in the middle of them. */
const spec = {
  prompt: "a photo of a red cat",
  numInferenceSteps: 300,
  seed: 5n,
  width: 64,
  height: 64,
};

let nats: NatsServer;
let scheduler: SchedulerProcess;
let client: TestClient;
const groups: GroupProcess[] = [];

beforeAll(async () => {
  nats = await startNats();
  scheduler = await startScheduler(nats.url);
  client = new TestClient(scheduler.address);
});

afterEach(async () => {
  for (const group of groups.splice(0)) await group.terminate();
});

afterAll(async () => {
  client.close();
  await scheduler.kill();
  await nats.close();
});

async function group(name: string, ...options: string[]): Promise<GroupProcess> {
  const started = await startGroupProcess(nats.url, model, ["--group", name, ...options]);
  groups.push(started);
  return started;
}

const create = (): Promise<ImageJob> =>
  client.call((c, done) => c.createImageJob(CreateImageJobRequest.fromPartial({ spec }), done));
const get = (name: string): Promise<ImageJob> =>
  client.call((c, done) => c.getImageJob({ name }, done));

async function ended(name: string): Promise<ImageJob> {
  await until(async () => (await get(name)).state >= State.STATE_SUCCEEDED, 90_000);
  const job = await get(name);
  expect(job.state, job.error?.message).toBe(State.STATE_SUCCEEDED);
  return job;
}

async function picture(name: string): Promise<string> {
  const pieces = await client.collect(client.raw.readImage({ name, index: 0, offset: 0n }));
  const hash = createHash("sha256");
  for (const { chunk } of pieces) hash.update(chunk);
  return hash.digest("hex");
}

test("a job moved from float32 to float16 begins again, says so, and is float16's", async () => {
  const first = await group("full");
  const { name } = await create();
  await until(async () => ((await get(name)).progress?.step ?? 0) >= 50, 60_000);
  const begun = await get(name);
  expect(begun.numericsClass).toBe(first.ready["numericsClass"]);
  const second = await group("half", "--run-type", "float16");
  expect(second.ready["numericsClass"]).not.toBe(first.ready["numericsClass"]);
  expect(await first.terminate()).toBe(0);
  const moved = await ended(name);
  expect(moved.attempt).toBe(2n);
  expect(moved.numericsClass).toBe(second.ready["numericsClass"]);
  expect(second.log()).toContain("checkpoints are of another numerics class: from step 0");
  expect(second.log()).not.toContain("going on from checkpoints");
  expect(moved.advisories.map(({ reason }) => reason)).toContain("NUMERICS_CLASS_CHANGED");

  const undisturbed = await ended((await create()).name);
  expect(undisturbed.attempt).toBe(1n);
  expect(await picture(moved.name)).toBe(await picture(undisturbed.name));
});
