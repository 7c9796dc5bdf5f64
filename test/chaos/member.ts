/**
 * A process of the stack under test that comes back whenever it dies, as under any supervisor. What
 * it says goes to a log file; a death that nobody asked for is remembered, and fails the run.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { treeOf } from "../bench/process-tree.ts";

export interface MemberSpec {
  readonly name: string;
  readonly args: readonly string[];
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly logFile: string;
}

export interface Death {
  readonly member: string;
  readonly atMs: number;
  readonly how: string;
  readonly wasReady: boolean;
}

const RESTART_DELAY_MS = 100;
/** Starts in a row that may end before the process is ready: what it needs may be down. */
const FAILED_STARTS_MAX = 30;
const READY_MS_MAX = 90_000;

export class Member {
  readonly spec: MemberSpec;
  /** Deaths that no strike explains. */
  readonly unplanned: Death[] = [];
  #process: ChildProcess | undefined;
  #ready = Promise.withResolvers<Readonly<Record<string, unknown>>>();
  #ended = Promise.withResolvers<number | null>();
  #isReady = false;
  #planned = false;
  #killed = false;
  #mayLeave = false;
  #stopped = false;
  #failedStarts = 0;
  #lastCode: number | null = null;
  #starts = 0;

  constructor(spec: MemberSpec) {
    this.spec = spec;
    this.#ready.promise.catch(() => undefined);
    this.#spawn();
  }

  /** Of the process that lives now, or of the next one. */
  async untilReady(): Promise<Readonly<Record<string, unknown>>> {
    const timeout = AbortSignal.timeout(READY_MS_MAX);
    for (;;) {
      const ready = this.#ready;
      const facts = await Promise.race([ready.promise, aborted(timeout, this.spec.name)]);
      if (ready === this.#ready) return facts;
    }
  }

  get isReady(): boolean {
    return this.#isReady;
  }

  /** 0 while there is none. */
  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  get starts(): number {
    return this.#starts;
  }

  /** Its own process and everything it has started. */
  get tree(): number[] {
    return this.pid === 0 ? [] : treeOf(this.pid);
  }

  /** The process that lives now, or lived last, was sent a SIGKILL. */
  get wasKilled(): boolean {
    return this.#killed;
  }

  /** Its group is drained: the process may end by itself, with exit code 0. */
  allowLeaving(): void {
    this.#mayLeave = true;
  }

  /** When its process ends, none follows. */
  stayAway(): void {
    this.#stopped = true;
  }

  /** The process ends by this; resolves to its exit code once it has, null after a signal. */
  async end(signal: "SIGKILL" | "SIGTERM"): Promise<number | null> {
    this.#planned = true;
    this.#killed ||= signal === "SIGKILL";
    const { promise } = this.#ended;
    this.#process?.kill(signal);
    return promise;
  }

  /** Ends it for good; resolves to the exit code of its last process. */
  async stop(signal: "SIGKILL" | "SIGTERM"): Promise<number | null> {
    this.stayAway();
    if (this.#process === undefined) return this.#lastCode;
    return this.end(signal);
  }

  #spawn(): void {
    const { args, environment, logFile } = this.spec;
    this.#starts += 1;
    this.#planned = false;
    this.#killed = false;
    this.#mayLeave = false;
    this.#ended = Promise.withResolvers();
    const child = spawn(process.execPath, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { PATH: process.env["PATH"], ORT_DISABLE_TELEMETRY: "1", ...environment },
    });
    this.#process = child;
    child.stdin.on("error", () => undefined); // it died first
    child.stderr.on("data", (chunk: Buffer) => appendFileSync(logFile, chunk));
    createInterface({ input: child.stdout }).on("line", (line) => {
      appendFileSync(logFile, `${line}\n`);
      if (!line.startsWith('{"event":"ready"')) return;
      this.#isReady = true;
      this.#failedStarts = 0;
      this.#ready.resolve(JSON.parse(line) as Record<string, unknown>);
    });
    child.once("exit", (code, signal) => void this.#onExit(code, signal));
  }

  async #onExit(code: number | null, signal: string | null): Promise<void> {
    const { name, logFile } = this.spec;
    const how = signal ?? `exit code ${code}`;
    appendFileSync(logFile, `--- ${new Date().toISOString()} ${name} ended: ${how}\n`);
    const wasReady = this.#isReady;
    const allowed = this.#planned || (this.#mayLeave && code === 0);
    if (!allowed && wasReady) {
      this.unplanned.push({ member: name, atMs: performance.now(), how, wasReady });
    }
    this.#lastCode = code;
    if (!wasReady && !allowed) this.#failedStarts += 1;
    this.#process = undefined;
    if (wasReady) {
      this.#isReady = false;
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => undefined);
    }
    this.#ended.resolve(code);
    if (this.#stopped) return;
    if (this.#failedStarts > FAILED_STARTS_MAX) {
      return this.#ready.reject(new Error(`${name} does not start: see ${logFile}`));
    }
    await sleep(RESTART_DELAY_MS);
    if (!this.#stopped) this.#spawn();
  }
}

function aborted(signal: AbortSignal, name: string): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  signal.addEventListener("abort", () => reject(new Error(`${name} did not become ready`)));
  return promise;
}
