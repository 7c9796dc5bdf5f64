/** Models of a hub as a user meets them: pull, list, verify, remove, inspect, generate and up. */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import {
  fluxline,
  type RunningCommand,
  smallModel,
  startFluxline,
  startServer,
} from "../support/command.ts";
import { until } from "../support/until.ts";
import { HubServer, type Repository } from "../support/hub-server.ts";

const name = "org/dev-like";
const TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors";
let hub: HubServer;
let repository: Repository;
let home = "";
const started: RunningCommand[] = [];

beforeAll(async () => {
  hub = await HubServer.start();
  repository = await hub.serve(name, smallModel);
});
afterAll(() => hub.close());
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
  hub.fail();
  hub.forget();
  hub.bytesPerSecond = Number.POSITIVE_INFINITY;
});
afterEach(() => {
  for (const command of started.splice(0)) command.killAll();
  rmSync(home, { recursive: true, force: true });
});

function environment(more: Readonly<Record<string, string>> = {}): Record<string, string> {
  const { endpoint } = hub;
  return { HF_ENDPOINT: endpoint, FLUXLINE_CACHE: home, HF_HOME: join(home, "hf"), ...more };
}

function run(args: readonly string[], more?: Readonly<Record<string, string>>) {
  return fluxline(args, { cwd: home, env: environment(more) });
}

test("pull, list, verify, remove", async () => {
  const pulled = await run(["model", "pull", name]);
  expect(pulled.code, pulled.stderr).toBe(0);
  expect(pulled.stdout).toContain(`model   ${name}@${repository.commit}`);
  expect(pulled.stderr).toMatch(/fetching .* of .*MiB/);
  const listed = await run(["model", "list"]);
  expect(listed.stdout).toMatch(/org\/dev-like {2}[0-9a-f]{12} {2}main /);
  const again = await run(["model", "pull", name, "--json"]);
  const last = JSON.parse(again.stdout.trim().split("\n").at(-1)!);
  expect(last).toMatchObject({ event: "pulled", model: `${name}@${repository.commit}` });
  expect(hub.bytesAgain()).toBe(0);
  const verified = await run(["model", "verify", name]);
  expect(verified.code, verified.stderr).toBe(0);
  expect(verified.stdout).toMatch(/(\d+) of \1 files verified$/m);
  // A byte that rots on the disk is found, and the file is fetched again.
  const file = join(last.folder, TRANSFORMER);
  const bytes = readFileSync(file);
  bytes[bytes.length - 5]! ^= 1;
  writeFileSync(file, bytes);
  const rotten = await run(["model", "verify", name]);
  expect(rotten.code).toBe(1);
  expect(rotten.stderr).toContain(TRANSFORMER);
  expect((await run(["model", "pull", name])).code).toBe(0);
  expect((await run(["model", "verify", name])).stdout).toMatch(/(\d+) of \1 files verified$/m);
  const removed = await run(["model", "remove", name]);
  expect(removed.stdout).toContain(`removed ${name}@${repository.commit}`);
  expect(existsSync(last.folder)).toBe(false);
  const none = await run(["model", "remove", name]);
  expect(none.code).toBe(1);
  expect(none.stderr).toContain("is not in the cache");
});

test("pull of a rank, and of a rank that there is not", async () => {
  const pulled = await run(["model", "pull", name, "--stages", "2", "--rank", "1"]);
  expect(pulled.code, pulled.stderr).toBe(0);
  const wrong = await run(["model", "pull", name, "--stages", "2", "--rank", "2"]);
  expect(wrong.code).toBe(2);
  expect(wrong.stderr).toContain("rank");
});

test("generate on a model of a hub gives the folder's picture, and then needs the hub no more", async () => {
  const drawing = ["generate", "a red circle", "--steps", "2", "--seed", "3"];
  const remote = await run([...drawing, "--model", name, "--output", "hub.png"]);
  expect(remote.code, remote.stderr).toBe(0);
  const local = await run([...drawing, "--model", smallModel, "--output", "folder.png"]);
  expect(local.code, local.stderr).toBe(0);
  const [ours, theirs] = ["hub.png", "folder.png"].map((file) => readFileSync(join(home, file)));
  expect(ours!.equals(theirs!)).toBe(true);
  const offline = { HF_HUB_OFFLINE: "1", HF_ENDPOINT: "http://127.0.0.1:9" };
  const again = await run([...drawing, "--model", name, "--output", "again.png"], offline);
  expect(again.code, again.stderr).toBe(0);
});

test("up keeps the model in use until it ends", async () => {
  const data = join(home, "data");
  const { command } = await startServer(["--model", name, "--stages", "2", "--data", data], {
    env: environment(),
  });
  started.push(command);
  expect(command.lines.some((line) => line.includes('"event":"fetching"'))).toBe(true);
  const refused = await run(["model", "remove", name]);
  expect(refused.code).toBe(1);
  expect(refused.stderr).toMatch(/is in use by process \d+ on /);
  await command.stop();
  expect((await run(["model", "remove", name])).code).toBe(0);
});

test("Ctrl-C while a model is fetched ends everything, and what came is kept", async () => {
  hub.bytesPerSecond = 200_000;
  const args = ["up", "--model", name, "--json", "--port", "0", "--data", join(home, "data")];
  const command = startFluxline(args, { env: environment() });
  started.push(command);
  await until(() => hub.bytesServed(TRANSFORMER) > 400_000, 30_000);
  const { code, stderr } = await command.stop();
  expect({ code, stderr: stderr.trim() }).toEqual({ code: 130, stderr: "interrupted" });
  await command.untilGone();
  hub.bytesPerSecond = Number.POSITIVE_INFINITY;
  const before = hub.bytesServed(TRANSFORMER);
  expect((await run(["model", "pull", name])).code).toBe(0);
  const size = repository.files.find(({ path }) => path === TRANSFORMER)!.size;
  expect(hub.bytesServed(TRANSFORMER) - before).toBeLessThan(size - 200_000);
});

test("inspect knows a model of a hub", async () => {
  const inspected = await run(["model", "inspect", name, "--width", "64", "--height", "64"]);
  expect(inspected.code, inspected.stderr).toBe(0);
  expect(inspected.stdout).toContain("model      dev-like, family");
});

test.each([
  [
    "no folder and no name of a hub",
    ["generate", "x", "--model", "nothing"],
    2,
    "path of a folder",
  ],
  ["a model that no hub has", ["generate", "x", "--model", "org/none"], 1, "no such model"],
  ["a folder is not pulled", ["model", "pull", smallModel], 2, "a folder of this machine"],
])("%s", async (_, args, code, part) => {
  const ended = await run(args);
  expect(ended.code, ended.stderr).toBe(code);
  expect(ended.stderr).toContain(part);
});

test("a gated model says which page to accept and which variable to set", async () => {
  const folder = join(home, "copy");
  cpSync(smallModel, folder, { recursive: true });
  await hub.serve("org/gated", folder, { gated: true });
  const ended = await run(["model", "pull", "org/gated"]);
  expect(ended.code).toBe(1);
  expect(ended.stderr).toContain(`${hub.endpoint}/org/gated`);
  expect(ended.stderr).toContain("HF_TOKEN");
});
