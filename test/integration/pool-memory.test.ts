/**
 * The numbers of `fluxline plan` are those that a group runs with: a driver and a stage that are told
 * the same devices come to the same plan, and the pool's record says what the plan says.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { planModel } from "@fluxline/gpu-node/adapters/placement-report.ts";
import type { ModelProfile } from "@fluxline/kernel/image-request.ts";
import { connectBus } from "@fluxline/platform/bus/connection.ts";
import { openKeyValue } from "@fluxline/platform/bus/key-value.ts";
import { poolsBucket } from "@fluxline/platform/bus/topology.ts";
import { profileFromMessage } from "@fluxline/platform/message/model-profile.ts";
import { PoolRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { smallModel } from "../support/command.ts";
import {
  type GroupProcess,
  startGroupProcess,
  startStageProcess,
} from "../support/group-process.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler } from "../support/scheduler-process.ts";

let nats: NatsServer;
let scheduler: SchedulerProcess;
let folder = "";
const processes: GroupProcess[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-pool-"));
  nats = await startNats();
  scheduler = await startScheduler(nats.url);
});
afterEach(async () => {
  for (const one of processes.splice(0)) await one.kill();
  await scheduler.kill();
  await nats.close();
  rmSync(folder, { recursive: true, force: true });
});

async function registeredProfile(): Promise<ModelProfile> {
  const bus = await connectBus({
    url: nats.url,
    name: "test",
    firstConnectMs: 5_000,
    onStatus: () => undefined,
  });
  try {
    const stored = await (await openKeyValue(bus, poolsBucket)).get("default");
    return profileFromMessage(PoolRecord.decode(stored!.value).profile!);
  } finally {
    await bus.drain();
  }
}

test("a group of two devices registers what `plan` says of them", async () => {
  const sizes = ["--max-size", "256x192", "--max-batch", "2", "--link-gbit", "40"];
  const asked = ["--devices", "1x1GiB,1x0.3GiB", ...sizes];
  const plan = await planModel([smallModel, ...asked, "--provider", "cpu"], {});
  expect(plan.fits).toBe(true);

  const socket = `unix:${join(folder, "1.sock")}`;
  const told = ["--devices", plan.devices, ...sizes];
  const stage = startStageProcess(smallModel, [...told, "--rank", "1", "--listen", socket]);
  const driver = startGroupProcess(nats.url, smallModel, [...told, "--stage-addresses", socket]);
  processes.push(...(await Promise.all([stage, driver])));
  const { memory } = await registeredProfile();
  expect(memory).toEqual(JSON.parse(JSON.stringify(plan.memory)));
  expect(memory.map(({ device }) => device)).toEqual(["rank 0", "rank 1"]);
});

test("a group that is told no devices registers this machine's memory", async () => {
  processes.push(await startGroupProcess(nats.url, smallModel, []));
  const { memory } = await registeredProfile();
  expect(memory).toHaveLength(1);
  expect(memory[0]!.availableBytes).toBeGreaterThan(2 ** 28);
  expect(memory[0]!.fixedBytes).toBeLessThan(memory[0]!.availableBytes);
});

test("a group whose devices cannot hold the model does not start, and says what is missing", async () => {
  const started = startGroupProcess(nats.url, smallModel, ["--devices", "1x0.01GiB"]);
  await expect(started).rejects.toThrow(
    /at least 0\.\d+ GiB are missing.*PLAN_DOES_NOT_FIT|PLAN_DOES_NOT_FIT.*at least 0\.\d+ GiB/,
  );
});
