/** Real GPU node processes for tests: the driver of a replica group with its runner, and stages. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../../services/gpu-node/src/main.ts", import.meta.url));
const startMsMax = 30_000;

export interface GroupProcess {
  /** Of the driver, or of a stage. */
  readonly child: ChildProcess;
  /** What it said when it was ready. */
  readonly ready: Readonly<Record<string, string>>;
  log(): string;
  /** Process id of its runner. */
  runnerPid(): number;
  /** Holds driver and runner still, and lets them go on. */
  freeze(): void;
  thaw(): void;
  kill(): Promise<void>;
  /** Asks it to drain; resolves to its exit code. */
  terminate(): Promise<number | null>;
}

let starting: ChildProcess | undefined;

/** The process of the last start, ready or not. */
export function groupBeingStarted(): ChildProcess | undefined {
  return starting;
}

/** The driver of a group; it is ready when its stages are. */
export function startGroupProcess(
  natsUrl: string,
  model: string,
  options: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<GroupProcess> {
  const args = ["serve", "--nats", natsUrl, "--model", model, "--threads", "1", ...options];
  return startNode(args, environment);
}

/** Rank 1 or higher of a group; `options` name rank, stages, address and whatever differs. */
export function startStageProcess(
  model: string,
  options: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<GroupProcess> {
  return startNode(["stage", "--model", model, "--threads", "1", ...options], environment);
}

/** The GPU node's program, once it has said that it is ready. */
export async function startNode(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
  msMax = startMsMax,
): Promise<GroupProcess> {
  const child = spawn(process.execPath, [main, ...args, "--exit-with-parent"], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...environment },
  });
  starting = child;
  let log = "";
  child.stderr.on("data", (chunk: Buffer) => {
    log += chunk.toString();
  });
  const first = Promise.withResolvers<string>();
  createInterface({ input: child.stdout }).on("line", (line) => {
    if (JSON.parse(line).event !== "progress") first.resolve(line);
  });
  child.once("exit", (code) => first.reject(new Error(`GPU node ended (${code}):\n${log}`)));
  const timer = setTimeout(() => first.reject(new Error(`not ready:\n${log}`)), msMax);
  const line = await first.promise.finally(() => clearTimeout(timer));
  const ready = JSON.parse(line) as Record<string, string>;
  if (ready["event"] !== "ready") throw new Error(line);
  const runnerPid = (): number => {
    const task = `/proc/${child.pid}/task/${child.pid}/children`;
    return Number(readFileSync(task, "utf8").trim().split(" ")[0]);
  };
  const signal = (name: NodeJS.Signals): void => {
    process.kill(runnerPid(), name);
    child.kill(name);
  };
  const end = async (name: NodeJS.Signals): Promise<number | null> => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill(name);
      await ended;
    }
    return child.exitCode;
  };
  return {
    child,
    ready,
    log: () => log,
    runnerPid,
    freeze: () => signal("SIGSTOP"),
    thaw: () => signal("SIGCONT"),
    kill: async () => void (await end("SIGKILL")),
    terminate: () => end("SIGTERM"),
  };
}
