/** Real processes that fetch a model: the GPU node's program with `pull`. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../../services/gpu-node/src/main.ts", import.meta.url));

export interface FetchEnd {
  readonly code: number | null;
  /** The last line that it said. */
  readonly answer: Readonly<Record<string, unknown>>;
}

export interface FetchProcess {
  readonly child: ChildProcess;
  readonly ended: Promise<FetchEnd>;
  /** Of its last word on progress. */
  doneBytes(): number;
  kill(): Promise<void>;
}

export function startFetch(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): FetchProcess {
  const child = spawn(process.execPath, [main, ...args], {
    stdio: ["ignore", "pipe", "ignore"],
    env: { PATH: process.env["PATH"], ...environment },
  });
  let answer: Record<string, unknown> = {};
  let done = 0;
  createInterface({ input: child.stdout }).on("line", (line) => {
    answer = JSON.parse(line) as Record<string, unknown>;
    if (answer["event"] === "progress") done = Number(answer["doneBytes"]);
  });
  const ended = new Promise<FetchEnd>((resolve) => {
    child.once("close", (code) => resolve({ code, answer }));
  });
  return {
    child,
    ended,
    doneBytes: () => done,
    async kill() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}
