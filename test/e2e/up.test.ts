/** `fluxline up` and what a user does with it: pictures, jobs, Ctrl-C, and what goes wrong. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
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
import { until } from "../support/until.ts";

const started: RunningCommand[] = [];
let folder = "";
let data = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(async () => {
  for (const command of started.splice(0)) command.killAll();
});

const dataFolder = () => join(folder, `data-${++data}`);

async function upOn(path: string, ...args: string[]): Promise<RunningServer> {
  const server = await startServer(["--model", smallModel, "--data", path, ...args]);
  started.push(server.command);
  return server;
}

const failed = ({ code, stderr }: Ended) => ({
  code,
  error: (JSON.parse(stderr) as { error: unknown }).error,
});

describe("a server", () => {
  let server: RunningServer;
  let at: string[];
  beforeEach(async () => {
    server = await upOn(dataFolder());
    at = ["--server", server.address];
  });

  test("draws, lists, shows, watches and cancels jobs, and goes without a trace", async () => {
    const output = join(folder, "a.webp");
    const drawing = ["generate", "a red circle", "--steps", "3", "--seed", "7", "--output", output];
    expect(await fluxline([...drawing, ...at])).toMatchObject({ code: 0, stdout: `${output}\n` });
    expect(readFileSync(output).subarray(0, 4).toString()).toBe("RIFF");

    const long = startFluxline(["generate", "a blue square", "--steps", "999", ...at]);
    started.push(long);
    await long.line((line) => line.startsWith("step "));

    const list = await fluxline(["jobs", "list", "--json", ...at]);
    const { jobs }: { jobs: { name: string; state: string }[] } = JSON.parse(list.stdout);
    expect(jobs.map(({ state }) => state)).toEqual(["STATE_RUNNING", "STATE_SUCCEEDED"]);
    const [running, done] = jobs.map(({ name }) => name) as [string, string];

    const table = await fluxline(["jobs", "list", "--state", "running", ...at]);
    expect(table.stdout).toContain("a blue square");
    expect(table.stdout).not.toContain("a red circle");

    const shown = await fluxline(["jobs", "get", done.split("/").at(-1)!, ...at]);
    expect(shown.stdout).toContain("succeeded");
    expect(shown.stdout).toMatch(/seed +7/);

    const saved = join(folder, "saved.webp");
    const save = await fluxline(["jobs", "save", done, "--output", saved, ...at]);
    expect(save).toMatchObject({ code: 0, stdout: `${saved}\n` });
    expect(readFileSync(saved)).toEqual(readFileSync(output));
    const early = await fluxline(["jobs", "save", running, ...at]);
    expect(early).toMatchObject({ code: 1 });
    expect(early.stderr).toContain("has not ended");

    const watching = startFluxline(["jobs", "watch", running, ...at]);
    started.push(watching);
    await watching.line((line) => line.startsWith("step "));
    expect((await fluxline(["jobs", "cancel", running, ...at])).code).toBe(0);
    const watched = await watching.ended;
    expect(watched.code).toBe(1);
    expect(watched.stdout).toContain("cancelled");
    expect(await long.ended).toMatchObject({ code: 1 });
    const cancelled = await fluxline(["jobs", "list", "--state", "cancelled", ...at]);
    expect(cancelled.stdout).toMatch(/cancelled\W+[1-9]\d*\/\d+/);

    expect((await server.command.stop()).code).toBe(0);
    await server.command.untilGone();
  });

  test("cancels what a client that goes away was drawing", async () => {
    const long = startFluxline(["generate", "a blue square", "--steps", "999", ...at]);
    started.push(long);
    await long.line((line) => line.startsWith("step "));
    expect((await long.stop()).code).toBe(130);
    await until(async () => {
      const { stdout } = await fluxline(["jobs", "list", "--state", "cancelled", ...at]);
      return stdout.includes("a blue square");
    });
  });

  test("dies whole when it is killed without a chance to clean up", async () => {
    process.kill(server.command.pid, "SIGKILL");
    await server.command.untilGone();
  });

  test("says that there is no such job, pool or server", async () => {
    const job = failed(await fluxline(["jobs", "get", "77", "--json", ...at]));
    expect(job).toMatchObject({ code: 1, error: { code: "not_found" } });
    const argv = ["generate", "x", "--pool", "nowhere", "--json", ...at];
    expect(failed(await fluxline(argv))).toMatchObject({
      error: { reason: "POOL_NOT_FOUND", violations: [{ field: "pool" }] },
    });
    const gone = failed(await fluxline(["jobs", "list", "--json", "--server", "127.0.0.1:1"]));
    expect(gone).toMatchObject({ error: { reason: "SERVER_UNREACHABLE" } });
  });

  test("refuses a message above its limit, a prompt above the model's, and control characters", async () => {
    const asked = async (prompt: string) => {
      const argv = ["generate", "-", "--json", ...at];
      return failed(await fluxline(argv, { stdin: prompt }));
    };
    expect(await asked("x".repeat(1_000_000))).toMatchObject({
      code: 1,
      error: { code: "invalid_argument", violations: [{ field: "spec.prompt" }] },
    });
    expect(await asked("x".repeat(4_194_304))).toMatchObject({
      error: { code: "resource_exhausted", reason: "MESSAGE_TOO_LARGE" },
    });
    expect(await asked("a\u0000b")).toMatchObject({
      error: { code: "invalid_argument", violations: [{ field: "spec.prompt" }] },
    });
  });
});

describe("a start that cannot work", () => {
  test("on a folder in use names the folder and its owner", async () => {
    const path = dataFolder();
    const first = await upOn(path);
    const argv = ["up", "--model", smallModel, "--data", path, "--port", "0", "--json"];
    expect(failed(await fluxline(argv))).toMatchObject({
      code: 1,
      error: {
        reason: "DATA_FOLDER_IN_USE",
        message: expect.stringContaining(path),
        details: { folder: path, pid: String(first.command.pid) },
      },
    });
    // The one that was there goes on.
    expect((await fluxline(["jobs", "list", "--server", first.address])).code).toBe(0);
  });

  test.each(["--port", "--nats-port"])("on a taken %s names it and the way out", async (option) => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const { port } = other.address() as { port: number };
    const free = option === "--port" ? [] : ["--port", "0"];
    const argv = ["up", "--model", smallModel, "--data", dataFolder(), "--json", ...free];
    const result = failed(await fluxline([...argv, option, String(port)]));
    other.close();
    expect(result).toMatchObject({
      code: 1,
      error: {
        reason: "PORT_TAKEN",
        violations: [{ field: option, description: expect.stringContaining(`${option} 0`) }],
      },
    });
  });

  test("without a model says which folder, and leaves no process", async () => {
    const model = join(folder, "no-model");
    mkdirSync(model);
    const argv = ["up", "--model", model, "--data", dataFolder(), "--port", "0", "--json"];
    const command = startFluxline(argv);
    started.push(command);
    const { code, stderr } = await command.ended;
    expect(code).toBe(1);
    expect(stderr).toContain(model);
    await command.untilGone();
  });

  test("with a nats-server that does not start says why", async () => {
    const argv = ["up", "--model", smallModel, "--data", dataFolder(), "--port", "0", "--json"];
    const command = startFluxline(argv, { env: { FLUXLINE_NATS_SERVER: "/bin/false" } });
    started.push(command);
    expect(failed(await command.ended)).toMatchObject({ code: 1 });
    await command.untilGone();
  });
});
