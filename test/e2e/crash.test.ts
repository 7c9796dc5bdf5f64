/**
 * kill -9 of each part in mid-job: the picture comes all the same, with the same bytes as when
 * nothing happens.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  type Ended,
  fluxline,
  type RunningCommand,
  type RunningServer,
  smallModel,
  startFluxline,
  startServer,
} from "../support/command.ts";
import { freePort } from "../support/nats.ts";

/** Enough steps to be in the middle of them for some seconds. */
const drawing = ["generate", "a large red circle", "--steps", "600", "--seed", "7"];

const started: RunningCommand[] = [];
let folder = "";
let undisturbed = "";

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
  const file = join(folder, "undisturbed.png");
  const ended = await fluxline([...drawing, "--model", smallModel, "--output", file]);
  expect(ended.code, ended.stderr).toBe(0);
  undisturbed = pixelsOf(file);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => {
  for (const command of started.splice(0)) command.killAll();
});

function pixelsOf(file: string): string {
  return createHash("sha256").update(readFileSync(file)).digest("hex");
}

/** Starts a drawing and resolves in the middle of it. */
async function drawInto(file: string, server: readonly string[]): Promise<RunningCommand> {
  const command = startFluxline([...drawing, ...server, "--output", file]);
  started.push(command);
  await command.line((line) => /^step (1[2-9]|[2-9]\d)\d of 600/.test(line));
  return command;
}

function expectSamePicture(ended: Ended, file: string): void {
  expect(ended.code, ended.stderr).toBe(0);
  expect(pixelsOf(file)).toBe(undisturbed);
}

describe("a private stack gives the same bytes when in mid-job", () => {
  test.each([
    ["the GPU node is killed", "gpu-node driver", "gpu-node g0 driver died"],
    ["the runner is killed", "gpu-node runner", undefined],
    ["the scheduler is killed", "fluxline scheduler", "scheduler died"],
    ["nats-server is killed", "nats.conf", "nats died"],
  ])("%s", async (_, victim, told) => {
    const file = join(folder, `${victim.replaceAll(/\W/g, "-")}.png`);
    const command = await drawInto(file, ["--model", smallModel]);
    const found = command.processes.filter((each) => each.command.includes(victim));
    const killed = found.find(({ command: text }) => !text.includes("nats-guard"));
    expect(killed, `no process ${victim}`).toBeDefined();
    process.kill(killed!.pid, "SIGKILL");
    const ended = await command.ended;
    expectSamePicture(ended, file);
    if (told !== undefined) expect(ended.stderr).toContain(told);
    await command.untilGone();
  });
});

describe("a server", () => {
  let port = "";
  let data = "";
  let server: RunningServer;
  const up = async () => {
    const args = ["--model", smallModel, "--data", data, "--port", port];
    server = await startServer(args);
    started.push(server.command);
  };
  beforeEach(async () => {
    port = String(await freePort());
    data = mkdtempSync(join(folder, "data-"));
    await up();
  });

  test("that is drained and started again finishes what it had begun", async () => {
    const file = join(folder, "drained.png");
    const command = await drawInto(file, ["--server", server.address]);
    expect((await server.command.stop()).code).toBe(0);
    await server.command.untilGone();
    await up();
    expectSamePicture(await command.ended, file);
  });

  test("that is killed whole and started again finishes what it had begun", async () => {
    const file = join(folder, "killed.png");
    const command = await drawInto(file, ["--server", server.address]);
    server.command.killAll();
    await server.command.untilGone();
    await up();
    expectSamePicture(await command.ended, file);
  });
});
