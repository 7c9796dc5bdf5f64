/**
 * A whole group on a model of a hub: a driver and two stages, each a process that fetches its part
 * into a cache that they share, behind a real scheduler. Its picture is that of the local folder.
 */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type GroupProcess, startStageProcess } from "../support/group-process.ts";
import { HubServer, type Repository } from "../support/hub-server.ts";
import { LiveStack } from "../support/live-stack.ts";

const tiny = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
const name = "org/flux-tiny";
const spec = {
  prompt: "a small blue square on a white background",
  seed: 7n,
  numInferenceSteps: 6,
};

let home = "";
let model = "";
let hub: HubServer;
let repository: Repository;
let stack: LiveStack;
const stages: GroupProcess[] = [];

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), "fluxline-group-"));
  model = join(home, "flux-tiny");
  cpSync(tiny, model, { recursive: true, filter: (file) => !file.includes("training") });
  hub = await HubServer.start();
  repository = await hub.serve(name, model);
  stack = await LiveStack.start();
});
afterAll(async () => {
  await stack.stop();
  for (const one of stages) await one.kill();
  await hub.close();
  rmSync(home, { recursive: true, force: true });
});

/** Rank 0 and two stages of a group, on a model named like this. */
async function startGroup(group: string, named: string): Promise<GroupProcess> {
  const environment = {
    HF_ENDPOINT: hub.endpoint,
    HF_HOME: join(home, "hf"),
    FLUXLINE_CACHE: join(home, "cache"),
  };
  const addresses = [1, 2].map((rank) => `unix:${join(home, `${group}-${rank}.sock`)}`);
  const shared = ["--group", group, "--stages", "3"];
  const waiting = addresses.map(async (listen, index) => {
    const place = ["--rank", String(index + 1), "--listen", listen];
    const stage = await startStageProcess(named, [...shared, ...place], environment);
    stages.push(stage);
  });
  const driver = ["--stages", "3", "--stage-addresses", addresses.join(",")];
  const [started] = await Promise.all([stack.group(group, driver, environment, named), ...waiting]);
  return started;
}

test("its picture is that of the local folder bit for bit, and every byte was fetched once", async () => {
  const remote = await startGroup("g-hub", name);
  const fromHub = await stack.pictures(await stack.begin(spec));
  expect(hub.bytesAgain()).toBe(0);
  await remote.terminate();
  const local = await startGroup("g-folder", model);
  const fromFolder = await stack.pictures(await stack.begin(spec));
  expect(fromHub).toEqual(fromFolder);
  const facts = ["digest", "numericsClass", "model"] as const;
  for (const fact of facts) expect(remote.ready[fact], fact).toBe(local.ready[fact]);
  expect(remote.ready["digest"]).toMatch(/^[0-9a-f]{64}$/);
});

test("a rank of a pinned commit that is in the cache starts without the hub", async () => {
  const listen = `unix:${join(home, "again-1.sock")}`;
  const environment = {
    HF_ENDPOINT: "http://127.0.0.1:9",
    HF_HOME: join(home, "hf"),
    FLUXLINE_CACHE: join(home, "cache"),
  };
  const options = ["--group", "again", "--stages", "3", "--rank", "1", "--listen", listen];
  const stage = await startStageProcess(`${name}@${repository.commit}`, options, environment);
  stages.push(stage);
  expect(stage.ready["event"]).toBe("ready");
});
