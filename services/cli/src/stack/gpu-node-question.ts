/**
 * Asks the GPU node's program something: it is started, tells events while it works, says its answer
 * as the last line, and is gone.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { AppError, type ErrorRecord, fromErrorRecord } from "@fluxline/kernel/error.ts";
import { unlessInterrupted } from "../interruption.ts";
import { RefusedValue } from "../failure.ts";
import type { Session } from "../session.ts";
import { gpuNodeProgram } from "./service-program.ts";

const answerMsMax = 120_000;
/** For making durable what it has, when it is asked to end. */
const endMsMax = 5_000;
const shownErrorLength = 2000;
const typedWrong: ReadonlySet<string> = new Set(["INVALID_OPTIONS", "INVALID_MODEL"]);

export type GpuNodeEvent = Readonly<Record<string, unknown>>;

export interface QuestionOptions {
  /** Undefined: it bounds its waits itself. */
  readonly msMax?: number | undefined;
  /** Every line that it says, the last one too. */
  readonly onEvent?: (event: GpuNodeEvent) => void;
}

export async function askGpuNode<T>(
  args: readonly string[],
  session: Session,
  { msMax, onEvent }: QuestionOptions = { msMax: answerMsMax },
): Promise<T> {
  const child = spawn(process.execPath, [gpuNodeProgram, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: session.environment,
    ...(msMax === undefined ? {} : { timeout: msMax }),
  });
  session.onExit(() => child.kill("SIGKILL"));
  let stderr = "";
  let answer: GpuNodeEvent | undefined;
  createInterface({ input: child.stdout }).on("line", (line) => {
    if (!line.startsWith("{")) return;
    answer = JSON.parse(line) as GpuNodeEvent;
    onEvent?.(answer);
  });
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.once("error", reject).once("close", () => resolve());
  try {
    await unlessInterrupted(session.interrupted, promise);
  } finally {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), endMsMax);
    await promise.catch(() => undefined); // thrown above
    clearTimeout(timer);
  }
  if (answer === undefined) {
    const text = stderr.trim().slice(-shownErrorLength);
    throw new AppError("internal", `the GPU node's program gave no answer: ${text}`);
  }
  if (answer["event"] !== "failed") return answer as T;
  const error = fromErrorRecord(answer["error"] as ErrorRecord);
  // What was typed is wrong: nothing was done.
  throw typedWrong.has(error.reason) ? new RefusedValue(error) : error;
}
