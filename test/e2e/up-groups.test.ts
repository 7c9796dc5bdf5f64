/**
 * `fluxline up --stages 2 --groups 2`: what `ps` shows of it, that its pictures are those of one
 * process even while parts of it are killed, and that nothing of it stays.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  fluxline,
  repository,
  type RunningCommand,
  type RunningServer,
  startFluxline,
  startServer,
} from "../support/command.ts";

const model = join(repository, "models/flux-tiny");
/** Enough steps to be in the middle of them for some seconds. */
const steps = 300;
const seeds = [1, 2, 3, 4];
const started: RunningCommand[] = [];
let folder = "";
/** Digest of each picture as one process draws it, by seed. */
const undisturbed = new Map<number, string>();

const drawing = (seed: number, file: string, server: string): string[] => {
  const options = ["--steps", String(steps), "--seed", String(seed), "--output", file];
  return ["generate", "a large red circle", ...options, "--server", server];
};

async function up(data: string, ...options: string[]): Promise<RunningServer> {
  const server = await startServer(["--model", model, "--data", data, ...options]);
  started.push(server.command);
  return server;
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-e2e-"));
  const server = await up(join(folder, "one"));
  for (const seed of seeds) {
    const file = join(folder, `undisturbed-${seed}.png`);
    const { code, stderr } = await fluxline(drawing(seed, file, server.address));
    expect(code, stderr).toBe(0);
    undisturbed.set(seed, digestOf(file));
  }
  expect((await server.command.stop()).code).toBe(0);
});
afterAll(() => {
  for (const command of started) command.killAll();
  rmSync(folder, { recursive: true, force: true });
});

function digestOf(file: string): string {
  return createHash("sha256").update(readFileSync(file)).digest("hex");
}

interface Drawings {
  readonly commands: readonly RunningCommand[];
  expectUndisturbed(): Promise<void>;
}

/** One drawing for each seed; resolves when all of them are in the middle of their steps. */
async function drawAll(server: RunningServer): Promise<Drawings> {
  const into = mkdtempSync(join(folder, "drawn-"));
  const drawings = seeds.map((seed) => {
    const file = join(into, `${seed}.png`);
    const command = startFluxline(drawing(seed, file, server.address));
    started.push(command);
    return { seed, file, command };
  });
  await Promise.all(drawings.map(({ command }) => command.line((line) => /^step \d\d/.test(line))));
  return {
    commands: drawings.map(({ command }) => command),
    async expectUndisturbed() {
      for (const { seed, file, command } of drawings) {
        const { code, stderr } = await command.ended;
        expect(code, stderr).toBe(0);
        expect(digestOf(file), `seed ${seed}`).toBe(undisturbed.get(seed));
      }
    },
  };
}

/** Lines of the server about one of its processes. */
function told(server: RunningServer, event: string, child: string): string[] {
  return server.command.lines.filter(
    (line) => line.includes(`"event":"${event}"`) && line.includes(`"${child}"`),
  );
}

describe("two groups of two stages", () => {
  let server: RunningServer;
  let data = "";
  beforeAll(async () => {
    data = join(folder, "four");
    server = await up(data, "--stages", "2", "--groups", "2");
  });

  test("are told apart by name, and by role in ps", () => {
    const ready = server.command.lines.find((line) => line.includes('"event":"ready"'))!;
    const { processes } = JSON.parse(ready) as { processes: { name: string; pid: number }[] };
    expect(processes.map(({ name }) => name)).toEqual([
      "nats",
      "scheduler",
      "gpu-node g0 driver",
      "gpu-node g0 stage 1",
      "gpu-node g1 driver",
      "gpu-node g1 stage 1",
    ]);
    const shown = new Map(server.command.processes.map(({ pid, command }) => [pid, command]));
    expect(processes.slice(1).map(({ pid }) => shown.get(pid))).toEqual([
      "fluxline scheduler",
      "fluxline gpu-node driver g0",
      "fluxline gpu-node stage 1 g0",
      "fluxline gpu-node driver g1",
      "fluxline gpu-node stage 1 g1",
    ]);
  });

  test.each(["gpu-node g0 stage 1", "gpu-node g1 driver", "gpu-node g1 stage 1", "scheduler"])(
    "draw the pictures of one process while %s is killed",
    async (child) => {
      const drawings = await drawAll(server);
      process.kill(pidNow(server, child), "SIGKILL");
      await drawings.expectUndisturbed();
      expect(told(server, "died", child)).toHaveLength(1);
      await server.command.line(() => told(server, "restarted", child).length === 1);
    },
  );

  test("draw them while a runner of either group is killed", async () => {
    const drawings = await drawAll(server);
    for (const rank of ["rank 0", "rank 1"]) {
      const runners = server.command.processes.filter(({ command }) =>
        command.startsWith(`fluxline gpu-node runner cpu ${rank}`),
      );
      expect(runners).toHaveLength(2);
      process.kill(runners[0]!.pid, "SIGKILL");
    }
    await drawings.expectUndisturbed();
  });

  test("hand their work back at Ctrl-C, end without a death and leave nothing", async () => {
    const sockets = readlinkSync(join(data, "sockets"));
    expect(existsSync(sockets)).toBe(true);
    const deaths = server.command.lines.filter((line) => line.includes('"died"')).length;
    const drawings = await drawAll(server);
    const { code, stdout } = await server.command.stop();
    expect(code).toBe(0);
    expect(stdout.split("\n").filter((line) => line.includes('"died"'))).toHaveLength(deaths);
    await server.command.untilGone();
    expect(existsSync(sockets)).toBe(false);
    // Started again on the same data, as one process: what was in work goes on, and is the same.
    const port = server.address.split(":").at(-1)!;
    const again = await up(data, "--port", port);
    await drawings.expectUndisturbed();
    expect((await again.command.stop()).code).toBe(0);
  });
});

describe("a server of two stages", () => {
  let killed: RunningCommand | undefined;
  afterEach(() => killed?.killAll());

  test("that is killed with kill -9 takes every process with it, and goes on after", async () => {
    const data = join(folder, "killed");
    const server = await up(data, "--stages", "2");
    killed = server.command;
    const drawings = await drawAll(server);
    const sockets = readlinkSync(join(data, "sockets"));
    process.kill(server.command.pid, "SIGKILL");
    await server.command.untilGone();
    const port = server.address.split(":").at(-1)!;
    const again = await up(data, "--port", port, "--stages", "2");
    // The folder that the killed one could not remove is gone.
    expect(existsSync(sockets)).toBe(false);
    await drawings.expectUndisturbed();
    expect((await again.command.stop()).code).toBe(0);
    await again.command.untilGone();
  });

  test("whose stages outnumber the blocks says how many there may be", async () => {
    const data = join(folder, "too-many");
    const command = startFluxline(["up", "--stages", "7", "--data", data, "--port", "0", "--json"]);
    started.push(command);
    const { code, stderr } = await command.ended;
    expect(code).toBe(1);
    const { error } = JSON.parse(stderr) as { error: { reason: string; violations: object[] } };
    expect(error).toMatchObject({ reason: "INVALID_PLAN", violations: [{ field: "--stages" }] });
    await command.untilGone();
  });
});

/** Of a child of `up`: as it was at first, or as it was started again last. */
function pidNow(server: RunningServer, child: string): number {
  const again = told(server, "restarted", child).at(-1);
  if (again !== undefined) return (JSON.parse(again) as { pid: number }).pid;
  const ready = server.command.lines.find((line) => line.includes('"event":"ready"'))!;
  const { processes } = JSON.parse(ready) as { processes: { name: string; pid: number }[] };
  return processes.find(({ name }) => name === child)!.pid;
}
