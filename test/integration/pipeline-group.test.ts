/**
 * Replica groups of several processes on a real bus with a real scheduler: ranks that stay away, die
 * or are told to end. Whatever happens, a picture has the bytes that a group of one rank gives it.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type ImageJob, ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { CreateImageJobRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import {
  type GroupProcess,
  startGroupProcess,
  startStageProcess,
} from "../support/group-process.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";
import { until } from "../support/until.ts";

const model = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
/** Enough steps to be in the middle of them for some seconds. */
const LONG = { prompt: "a red circle", numInferenceSteps: 400, seed: 5n };

let nats: NatsServer;
let scheduler: SchedulerProcess;
let client: TestClient;
let folder = "";
let undisturbed = "";
const processes: GroupProcess[] = [];

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

async function pictureOf(name: string): Promise<string> {
  const pieces = await client.collect(client.raw.readImage({ name, index: 0, offset: 0n }));
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

const address = (group: string, rank: number): string =>
  `unix:${join(folder, `${group}-${rank}.sock`)}`;

function stageOptions(group: string, rank: number, stages: number, options: readonly string[]) {
  const place = ["--group", group, "--rank", String(rank), "--stages", String(stages)];
  return [...place, "--listen", address(group, rank), ...options];
}

async function stage(
  group: string,
  rank: number,
  stages: number,
  ...options: string[]
): Promise<GroupProcess> {
  const started = await startStageProcess(model, stageOptions(group, rank, stages, options));
  processes.push(started);
  return started;
}

/** All ranks of a group, by rank. */
async function group(
  name: string,
  stages: number,
  options: readonly string[] = [],
  driverOptions: readonly string[] = [],
): Promise<GroupProcess[]> {
  const ranks = Array.from({ length: stages - 1 }, (_, index) => index + 1);
  const addresses = ranks.map((rank) => address(name, rank)).join(",");
  const split = stages === 1 ? [] : ["--stage-addresses", addresses, "--stages", String(stages)];
  const all = ["--group", name, ...split, ...options, ...driverOptions];
  const driver = startGroupProcess(nats.url, model, all).then((started) => {
    processes.push(started);
    return started;
  });
  const behind = ranks.map((rank) => stage(name, rank, stages, ...options));
  return Promise.all([driver, ...behind]);
}

async function begin(): Promise<void> {
  folder = mkdtempSync(join(tmpdir(), "fluxline-ranks-"));
  nats = await startNats();
  scheduler = await startScheduler(nats.url);
  client = new TestClient(scheduler.address);
}

async function finish(): Promise<void> {
  client.close();
  for (const one of processes.splice(0)) await one.kill();
  await scheduler.kill();
  await nats.close();
  rmSync(folder, { recursive: true, force: true });
}

beforeAll(async () => {
  await begin();
  await group("g0", 1);
  const { name } = await create(LONG);
  expect((await ended(name)).state).toBe(State.STATE_SUCCEEDED);
  undisturbed = await pictureOf(name);
  await finish();
});

describe("a group of several processes", () => {
  beforeEach(begin);
  afterEach(finish);

  test("draws what one process draws, wherever text is encoded and pictures are decoded", async () => {
    const [driver, first] = await group("g0", 3, ["--place", "clip=1,t5=cpu,vae=2"]);
    expect(driver!.ready["numericsClass"]).toBe(first!.ready["numericsClass"]);
    expect(first!.ready["graphs"]).toEqual(["text_encoder", "transformer.2-3"]);
    await expectUndisturbed((await create(LONG)).name);
  });

  test("hands its job over when a stage stays away, and takes work when it is back", async () => {
    const ranks = await group("g0", 2, [], ["--stage-away-seconds", "1"]);
    const { name } = await create(LONG);
    await reaches(name, 50);
    await ranks[1]!.kill();
    await until(() => /hands back/.test(ranks[0]!.log()), 20_000);
    await group("g1", 1);
    const job = await expectUndisturbed(name);
    expect(job.attempt).toBe(2n);
    await processes.pop()!.kill();
    await stage("g0", 1, 2);
    const next = await ended((await create({ ...LONG, numInferenceSteps: 3 })).name);
    expect(next.state).toBe(State.STATE_SUCCEEDED);
  });

  test("keeps its stages when the driver was killed, for the next driver", async () => {
    const ranks = await group("g0", 2);
    const { name } = await create(LONG);
    await reaches(name, 50);
    const before = ranks[1]!.runnerPid();
    await ranks[0]!.kill();
    const options = ["--group", "g0", "--stages", "2", "--stage-addresses", address("g0", 1)];
    processes.push(await startGroupProcess(nats.url, model, options));
    const job = await expectUndisturbed(name);
    expect(job.attempt).toBe(2n);
    expect(ranks[1]!.runnerPid()).toBe(before);
  });

  test.each([0, 2])("drains as a whole when rank %i is told to end", async (rank) => {
    const ranks = await group("g0", 3);
    const { name } = await create(LONG);
    await reaches(name, 50);
    await group("g1", 1);
    expect(await ranks[rank]!.terminate()).toBe(0);
    await until(() => ranks.every(({ child }) => child.exitCode !== null), 20_000);
    expect(ranks.map(({ child }) => child.exitCode)).toEqual([0, 0, 0]);
    const job = await expectUndisturbed(name);
    expect(job.attempt).toBe(2n);
  });

  test("draws on simulated devices too, and says so", async () => {
    await group("g0", 3, ["--provider", "simulated", "--simulated-step-seconds", "0.006"]);
    const job = await ended((await create({ ...LONG, numInferenceSteps: 4 })).name);
    expect(job.state).toBe(State.STATE_SUCCEEDED);
    expect(job.simulated).toBe(true);
  });
});

test("a stage without a driver ends at once when it is told to", async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-ranks-"));
  const alone = await stage("g0", 1, 2);
  expect(await alone.terminate()).toBe(0);
  processes.pop();
  rmSync(folder, { recursive: true, force: true });
});
