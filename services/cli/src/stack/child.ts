/**
 * A child process of the stack, from its start to its end.
 *
 *   spawn -> JSON lines on stdout: {"event":"progress", ...} any number of times, each of which gives
 *            it its time anew; then {"event":"ready", ...} or {"event":"failed","error":{...}}
 *         -> stderr goes to a log file
 *         -> SIGTERM: drains; after its limit, SIGKILL
 *
 * Each child leads a process group of its own, so that Ctrl-C in the terminal reaches only us and
 * we end things in order; its stdin is a pipe from us, whose end tells it that we are gone.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { closeSync, openSync, readFileSync, renameSync, statSync } from "node:fs";
import { AppError, type ErrorRecord, fromErrorRecord } from "@fluxline/kernel/error.ts";
import type { Environment } from "../session.ts";

export interface ChildSpec {
  readonly name: string;
  readonly file: string;
  readonly args: readonly string[];
  readonly environment: Environment;
  readonly logFile: string;
  readonly readyMsMax: number;
  readonly drainMsMax: number;
}

/** What the ready line said, besides `event`. */
export type ReadyFacts = Readonly<Record<string, unknown>>;

/** What it is busy with before it is ready. */
export interface Progress {
  readonly what: string;
  readonly done: number;
  readonly total: number;
  readonly unit: "bytes" | "files";
}

export interface Death {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

const logBytesMax = 16 * 1024 * 1024;
const shownLogLines = 5;

export class Child {
  readonly spec: ChildSpec;
  readonly pid: number;
  /** Settles once: ready, or the reason why not. */
  readonly ready: Promise<ReadyFacts>;
  readonly ended: Promise<Death>;
  readonly #onProgress: (progress: Progress) => void;
  #process: ChildProcess;

  constructor(spec: ChildSpec, onProgress: (progress: Progress) => void = () => undefined) {
    this.spec = spec;
    this.#onProgress = onProgress;
    const log = openLog(spec.logFile);
    try {
      this.#process = spawn(spec.file, spec.args, {
        stdio: ["pipe", "pipe", log],
        detached: true,
        env: spec.environment,
      });
    } finally {
      closeSync(log);
    }
    this.pid = this.#process.pid ?? -1;
    // A child that died closes its end first; that is its exit's business, not the pipe's.
    this.#process.stdin?.on("error", () => undefined);
    const { promise, resolve } = Promise.withResolvers<Death>();
    this.ended = promise;
    this.#process.once("error", () => resolve({ code: null, signal: null }));
    this.#process.once("exit", (code, signal) => resolve({ code, signal }));
    this.ready = this.#becomeReady();
    this.ready.catch(() => undefined);
  }

  async #becomeReady(): Promise<ReadyFacts> {
    const { promise, resolve, reject } = Promise.withResolvers<ReadyFacts>();
    const { name, readyMsMax, logFile } = this.spec;
    let settled = false;
    this.#process.once("error", (cause) => {
      reject(
        new AppError("failed_precondition", `${name} could not be started: ${cause.message}`, {
          reason: "CHILD_NOT_STARTED",
          cause,
        }),
      );
    });
    const lines = createInterface({ input: this.#process.stdout! });
    lines.on("line", (line) => {
      const said = parseLine(line);
      if (said?.["event"] === "ready") resolve(said);
      if (said?.["event"] === "failed") reject(failureOf(said));
      if (said?.["event"] === "progress" && !settled) {
        timer.refresh();
        this.#onProgress(said as unknown as Progress);
      }
    });
    // Lines come before the end of the stream, so a reason that the child gave wins.
    lines.once("close", async () => {
      const death = await this.ended;
      if (settled) return;
      reject(
        new AppError(
          "unavailable",
          `${name} ended before it was ready (${describeDeath(death)}):\n${tailOf(logFile)}`,
          { reason: "CHILD_ENDED", details: { log: logFile } },
        ),
      );
    });
    const timer = setTimeout(() => {
      reject(
        new AppError("deadline_exceeded", `${name} was not ready within ${readyMsMax / 1000} s`, {
          reason: "CHILD_NOT_READY",
          details: { log: logFile },
        }),
      );
    }, readyMsMax);
    try {
      return await promise;
    } finally {
      settled = true;
      clearTimeout(timer);
    }
  }

  /** Asks it to drain, and ends it and everything it started when its time is over. */
  async stop(): Promise<void> {
    this.signal("SIGTERM");
    const timer = setTimeout(() => this.killGroup(), this.spec.drainMsMax);
    await this.ended;
    clearTimeout(timer);
    // What it may have started and left behind.
    this.killGroup();
  }

  signal(signal: NodeJS.Signals): void {
    if (this.pid > 0 && this.#process.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill(signal);
    }
  }

  /** Ends the whole process group at once. */
  killGroup(): void {
    if (this.pid <= 0) return;
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "ESRCH") throw thrown;
    }
  }
}

export function describeDeath({ code, signal }: Death): string {
  if (signal !== null) return `killed by ${signal}`;
  return code === null ? "not started" : `exit code ${code}`;
}

/** The end of a log, for people: messages of JSON lines, other lines as they are. */
export function tailOf(logFile: string): string {
  const lines = readFileSync(logFile, "utf8").trimEnd().split("\n").slice(-shownLogLines);
  const texts = lines.map((line) => {
    const message = parseLine(line)?.["msg"];
    return typeof message === "string" ? message : line;
  });
  return texts.map((text) => `  | ${text}`).join("\n");
}

/** The error of a `failed` line; what it leaves out is empty. */
function failureOf(said: Record<string, unknown>): AppError {
  const record = (said["error"] ?? said) as Partial<ErrorRecord>;
  return fromErrorRecord({
    code: record.code ?? "internal",
    reason: record.reason ?? "CHILD_FAILED",
    message: record.message ?? "no reason given",
    retryable: record.retryable ?? false,
    violations: record.violations ?? [],
    details: record.details ?? {},
  });
}

function parseLine(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    // Not one of ours: a library printed it.
    return undefined;
  }
}

/** Appends; a log that grew large is put aside first, and the one before it goes. */
function openLog(file: string): number {
  const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  if (size > logBytesMax) renameSync(file, `${file}.1`);
  return openSync(file, "a");
}
