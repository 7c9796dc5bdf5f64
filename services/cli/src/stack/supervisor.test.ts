/** Real processes: small scripts that behave as children of the stack do, or as they should not. */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ChildSpec } from "./child.ts";
import { deathsMax } from "./restart-policy.ts";
import { type StackEvent, Supervisor } from "./supervisor.ts";

const ready = 'console.log(JSON.stringify({ event: "ready", pid: process.pid }));';
const stay = "setInterval(() => undefined, 1000);";
const leave = 'process.on("SIGTERM", () => process.exit(0));';

let folder = "";
let started: Supervisor[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-child-"));
  started = [];
});
afterEach(async () => {
  await Promise.all(started.map((supervisor) => supervisor.stop()));
  rmSync(folder, { recursive: true, force: true });
});

function supervise(code: string, changes: Partial<ChildSpec> = {}) {
  const events: StackEvent[] = [];
  const waiting = new Map<string, () => void>();
  const spec: ChildSpec = {
    name: "worker",
    file: process.execPath,
    args: ["-e", code, folder],
    environment: {},
    logFile: join(folder, "worker.log"),
    readyMsMax: 10_000,
    drainMsMax: 5_000,
    ...changes,
  };
  const supervisor = new Supervisor(spec, (event) => {
    events.push(event);
    waiting.get(event.kind)?.();
  });
  started.push(supervisor);
  const until = (kind: StackEvent["kind"]) =>
    new Promise<void>((resolve) => waiting.set(kind, resolve));
  return { supervisor, events, until };
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    // A process that has ended and was not collected yet is as good as gone.
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
};

async function untilGone(pid: number): Promise<void> {
  for (let i = 0; i < 100 && isAlive(pid); i++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  expect(isAlive(pid)).toBe(false);
}

async function reasonOf(work: Promise<unknown>): Promise<AppError> {
  const thrown = await work.then(
    () => new Error("it did not fail"),
    (error: unknown) => error,
  );
  if (thrown instanceof AppError) return thrown;
  throw thrown;
}

describe("a start", () => {
  test("is over when the child says ready, with what it says", async () => {
    const { supervisor } = supervise(`${ready}${leave}${stay}`);
    expect(await supervisor.start()).toEqual({ event: "ready", pid: supervisor.pid });
  });
  test("that fails gives the reason that the child gave", async () => {
    const error = { code: "not_found", reason: "NO_MODEL", message: "no model at x" };
    const record = { ...error, retryable: false, violations: [], details: {} };
    const line = JSON.stringify(JSON.stringify({ event: "failed", error: record }));
    const { supervisor } = supervise(`console.log(${line}); process.exitCode = 1;`);
    expect(await reasonOf(supervisor.start())).toMatchObject(error);
  });
  test("that ends without a word shows the log", async () => {
    const { supervisor } = supervise('console.error("the disk is on fire"); process.exit(3);');
    const error = await reasonOf(supervisor.start());
    expect(error.reason).toBe("CHILD_ENDED");
    expect(error.message).toContain("exit code 3");
    expect(error.message).toContain("the disk is on fire");
  });
  test("that takes too long is given up", async () => {
    const { supervisor } = supervise(`${leave}${stay}`, { readyMsMax: 300 });
    expect((await reasonOf(supervisor.start())).reason).toBe("CHILD_NOT_READY");
  });
  test("that tells of its progress is waited for longer, and tells it on", async () => {
    const progress = { what: "fetching weights", done: 1, total: 2, unit: "bytes" };
    const line = JSON.stringify(JSON.stringify({ event: "progress", ...progress }));
    // Longer than the limit in all, never silent for as long as it.
    const code = `
      let told = 0;
      const timer = setInterval(() => {
        if (told++ < 6) return console.log(${line});
        clearInterval(timer);
        ${ready}
      }, 600);
      ${leave}${stay}`;
    const { supervisor, events } = supervise(code, { readyMsMax: 3_000 });
    await supervisor.start();
    expect(events).toHaveLength(6);
    expect(events[0]).toEqual({ kind: "progress", child: supervisor.spec.name, ...progress });
  });
  test("of a program that is not there says so", async () => {
    const { supervisor } = supervise("", { file: join(folder, "nothing") });
    expect((await reasonOf(supervisor.start())).reason).toBe("CHILD_NOT_STARTED");
  });
});

describe("a child that dies", () => {
  test("is started again, and said to be", async () => {
    const { supervisor, events, until } = supervise(`${ready}${leave}${stay}`);
    await supervisor.start();
    const first = supervisor.pid;
    const restarted = until("restarted");
    process.kill(first, "SIGKILL");
    await restarted;
    expect(events.map(({ kind }) => kind)).toEqual(["died", "restarted"]);
    expect(events[0]).toMatchObject({ how: "killed by SIGKILL" });
    expect(supervisor.pid).not.toBe(first);
    expect(isAlive(supervisor.pid)).toBe(true);
  });
  test("takes what it started with it", async () => {
    const grandchild =
      'require("child_process").spawn(process.execPath, ["-e", "setTimeout(() => {}, 60_000)"]).pid';
    const note = `require("fs").writeFileSync(process.argv[1] + "/pid", String(${grandchild}));`;
    const { supervisor, until } = supervise(`${note}${ready}${leave}${stay}`);
    await supervisor.start();
    const pid = Number(readFileSync(join(folder, "pid"), "utf8"));
    const died = until("died");
    process.kill(supervisor.pid, "SIGKILL");
    await died;
    await untilGone(pid);
  });
  test("again and again is given up", async () => {
    const { supervisor, events } = supervise(`${ready}process.exit(9);`);
    await supervisor.start();
    const error = await reasonOf(supervisor.gaveUp);
    expect(error.reason).toBe("CHILD_KEEPS_DYING");
    expect(events.filter(({ kind }) => kind === "died")).toHaveLength(deathsMax);
  }, 30_000);
});

describe("a stop", () => {
  test("ends a child that drains, and starts none", async () => {
    const { supervisor, events } = supervise(`${ready}${leave}${stay}`);
    await supervisor.start();
    await supervisor.stop();
    await untilGone(supervisor.pid);
    expect(events).toEqual([]);
  });
  test("can wait for a child that ends by itself, and starts none", async () => {
    const { supervisor, events } = supervise(`${ready}${leave}${stay}`);
    await supervisor.start();
    supervisor.letEnd();
    process.kill(supervisor.pid, "SIGTERM");
    await untilGone(supervisor.pid);
    await supervisor.stop();
    expect(events).toEqual([]);
  });
  test("ends a child that does not drain when its time is over", async () => {
    const deaf = 'process.on("SIGTERM", () => undefined);';
    const { supervisor } = supervise(`${ready}${deaf}${stay}`, { drainMsMax: 200 });
    await supervisor.start();
    await supervisor.stop();
    await untilGone(supervisor.pid);
  });
});

test("a nats-server does not outlive a parent that was killed", async () => {
  const server = join(folder, "server.cjs");
  const note = 'require("fs").writeFileSync(process.argv[2], String(process.pid));';
  const listen = 'require("net").createServer().listen(Number(process.argv[3]), "127.0.0.1");';
  writeFileSync(server, `${note}${listen}`);
  const guard = new URL("./nats-guard.ts", import.meta.url).pathname;
  const pidFile = join(folder, "server.pid");
  const { freePort } = await import("./port.ts");
  const port = String(await freePort());
  const args = [guard, "127.0.0.1", port, process.execPath, server, pidFile, port];
  // A parent that starts the guard and is then killed without a chance to clean up.
  const code =
    `require("child_process").spawn(process.execPath, ${JSON.stringify(args)},` +
    ' { detached: true, stdio: ["pipe", "inherit", "inherit"] });' +
    stay;
  const parent = spawn(process.execPath, ["-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  const said = await new Promise<string>((resolve) => {
    parent.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString()));
  });
  expect(JSON.parse(said)).toMatchObject({ event: "ready" });
  const pid = Number(readFileSync(pidFile, "utf8"));
  expect(isAlive(pid)).toBe(true);
  parent.kill("SIGKILL");
  await untilGone(pid);
}, 30_000);
