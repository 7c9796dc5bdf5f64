/**
 * The driver's side of a runner: starts the process, loads the graphs, sends calls, and starts it
 * again when it dies, with the same graphs and retained tensors. Calls are served in the order in
 * which they came: the one at the head then fails with RUNNER_DIED, those that waited behind it
 * with STAGE_LOST, because none of them can have been the cause. The runner is stateless but for
 * what this class sends it, so the caller may simply make the call again.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { fileURLToPath } from "node:url";
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, fromErrorRecord, toAppError } from "@fluxline/kernel/error.ts";
import type { Graph } from "../../core/image-model.ts";
import type { NamedTensors, Tensor } from "../../core/tensor.ts";
import { type RunnerArguments, runnerArguments } from "./arguments.ts";
import { FrameChannel } from "./channel.ts";
import type { Frame } from "../frame.ts";
import { readAhead } from "../read-ahead.ts";
import { type PartHeader, PayloadWriter, type RunnerMessage, tensorsFrom } from "./message.ts";

const RUNNER_SCRIPT = fileURLToPath(new URL("../../runner.ts", import.meta.url));
const DRIVER_DESCRIPTOR = 3;
/** Deaths in a row, without a call that succeeded between them, after which we give up. */
const DEATHS_IN_A_ROW_MAX = 6;
const RESTART_DELAY_MS_MAX = 5_000;
const RESTART_DELAY_MS_FIRST = 50;
const STOP_GRACE_MS = 1_500;
const STDERR_LINES_KEPT = 20;
/** A runner that has not answered for this long hangs: it is killed, and the call fails. */
const ANSWER_MS_MAX = 15 * 60_000;
/**
 * glibc raises its threshold for mapping memory with each large block that is freed, and then keeps
 * what conversions of weights leave behind: 6% of a 1 GB checkpoint. A fixed threshold does not.
 */
const MALLOC_MMAP_THRESHOLD_BYTES = 128 * 1024;
/** Other kernels give other bits: which ones run is not for a machine's environment to say. */
const KERNEL_ENVIRONMENT = { ORT_DISABLE_FLASH_ATTENTION: "0" };

/** A row of an input: sent along, or a tensor of something retained. */
export type InputPart =
  | { readonly tensor: Tensor }
  | { readonly key: string; readonly name: string };

export interface GraphCall {
  readonly graph: string;
  readonly inputs: Readonly<Record<string, readonly InputPart[]>>;
  readonly outputs: readonly string[];
}

export interface GraphResult {
  readonly tensors: NamedTensors;
  /** Seconds on the device, without the way there and back. */
  readonly seconds: number;
  /** Of loading a sequential graph for this very call; undefined when it was loaded. */
  readonly loadSeconds?: number | undefined;
}

export interface DeviceRunnerOptions {
  readonly device: RunnerArguments;
  /** What it is to its group, in the title of the process. */
  readonly role?: string;
  readonly graphs: readonly Graph[];
  /** Names of those that are loaded for each use and let go after it. */
  readonly sequential?: ReadonlySet<string>;
  /** The runner's environment; `process.env` of the driver. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** A line for the log. */
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
  /** The runner cannot be kept alive; nothing will run any more. */
  readonly onBroken: (error: AppError) => void;
}

interface Pending {
  readonly resolve: (result: GraphResult) => void;
  readonly reject: (error: AppError) => void;
}

interface RunningChild {
  readonly process: ChildProcess;
  /** Resolves once the process is gone and the last of its stderr is read. */
  readonly ended: Promise<void>;
  readonly channel: FrameChannel;
  readonly pending: Map<number, Pending>;
  readonly stderr: string[];
}

export class DeviceRunner {
  readonly #options: DeviceRunnerOptions;
  readonly #retained = new Map<string, NamedTensors>();
  #child: RunningChild | undefined;
  #ready: Promise<RunningChild> | undefined;
  #nextId = 1;
  #deathsInARow = 0;
  #restarts = 0;
  readonly #madeMs = performance.now();
  #busySeconds = 0;
  #stopping = false;
  /** The child that has all graphs. */
  #loaded: RunningChild | undefined;
  #broken: AppError | undefined;

  constructor(options: DeviceRunnerOptions) {
    this.#options = options;
  }

  /** Resolves when every graph is loaded; rejects with the reason of the first that is not. */
  async start(): Promise<void> {
    assert(this.#ready === undefined, "a runner is started once");
    this.#ready = this.#launch();
    await this.#ready;
  }

  /** Seconds of computing for calls, and in all, since this object was made: read together. */
  usage(): { busySeconds: number; upSeconds: number } {
    const upSeconds = (performance.now() - this.#madeMs) / 1000;
    return { busySeconds: this.#busySeconds, upSeconds };
  }

  get restarts(): number {
    return this.#restarts;
  }

  /** All graphs are loaded in a process that lives. */
  get ready(): boolean {
    return this.#child !== undefined && this.#child === this.#loaded;
  }

  /** Resident memory of the process in bytes; 0 while there is none. */
  rssBytes(): number {
    const pid = this.#child?.process.pid;
    if (pid === undefined) return 0;
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
    } catch {
      return 0; // it has just ended, or this system has no /proc
    }
  }

  /** Keeps tensors on the device under a key until `release`, over restarts too. */
  retain(key: string, tensors: NamedTensors): void {
    this.#retained.set(key, tensors);
    // While graphs are being loaded it is sent once they are.
    if (this.#loaded !== undefined && this.ready) sendRetained(this.#loaded, key, tensors);
  }

  release(key: string): void {
    if (!this.#retained.delete(key)) return;
    this.#child?.channel.send({ kind: "release", key }, []);
  }

  /**
   * Waits for a runner that is up, and calls it. RUNNER_DIED means that it died under this call,
   * STAGE_LOST that it died before, RUNNER_BROKEN that it cannot be kept alive, whoever calls.
   */
  async run(call: GraphCall): Promise<GraphResult> {
    const child = await this.#up();
    const result = await this.#call(child, call);
    this.#deathsInARow = 0;
    const { seconds, loadSeconds } = result;
    this.#busySeconds += seconds + (loadSeconds ?? 0);
    if (loadSeconds !== undefined) {
      this.#options.log("graph loaded for its call", { graph: call.graph, seconds: loadSeconds });
    }
    return result;
  }

  /** Ends the process for good; a call under way fails. Stopping twice is fine. */
  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    if (child === undefined) return;
    child.channel.close();
    const timer = setTimeout(() => child.process.kill("SIGKILL"), STOP_GRACE_MS);
    await child.ended;
    clearTimeout(timer);
  }

  /** Bounded: after so many deaths in a row the runner is broken. */
  async #up(): Promise<RunningChild> {
    for (;;) {
      if (this.#broken !== undefined) throw this.#broken;
      const ready = this.#ready;
      assert(ready !== undefined, "the runner is started before it is called");
      try {
        return await ready;
      } catch (thrown) {
        // A launch that died has been followed by another, unless this was the last.
        if (ready === this.#ready) throw thrown;
      }
    }
  }

  #call(child: RunningChild, call: GraphCall): Promise<GraphResult> {
    const writer = new PayloadWriter();
    const inputs: Record<string, PartHeader[]> = {};
    for (const [name, parts] of Object.entries(call.inputs)) {
      inputs[name] = parts.map((part) =>
        "tensor" in part
          ? { from: "payload", tensor: writer.add(part.tensor) }
          : { from: "retained", key: part.key, name: part.name },
      );
    }
    const header = { kind: "run", graph: call.graph, inputs, outputs: call.outputs };
    return this.#request(child, header, writer.parts);
  }

  #request(
    child: RunningChild,
    header: object,
    parts: readonly Uint8Array[],
  ): Promise<GraphResult> {
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<GraphResult>();
    if (this.#stopping) return Promise.reject(stoppedError());
    if (this.#child !== child) return Promise.reject(notReachedError("it ended before the call"));
    child.pending.set(id, { resolve, reject });
    child.channel.send({ ...header, id }, parts);
    const timer = setTimeout(() => {
      child.stderr.push(`Error: no answer for ${ANSWER_MS_MAX / 60_000} minutes`);
      child.process.kill("SIGKILL");
    }, ANSWER_MS_MAX);
    return promise.finally(() => clearTimeout(timer));
  }

  async #launch(): Promise<RunningChild> {
    if (this.#stopping) throw stoppedError();
    const child = this.#spawn();
    const begun = performance.now();
    const { graphs } = this.#options;
    const loaded = new AbortController();
    void readAhead(
      graphs.flatMap(({ weights }) => weights),
      loaded.signal,
    );
    try {
      await Promise.all(graphs.map((graph) => this.#load(child, graph)));
    } finally {
      loaded.abort();
    }
    for (const [key, tensors] of this.#retained) sendRetained(child, key, tensors);
    this.#loaded = child;
    const seconds = (performance.now() - begun) / 1000;
    this.#options.log("runner loaded", { graphs: graphs.length, seconds });
    return child;
  }

  #load(child: RunningChild, graph: Graph): Promise<GraphResult> {
    const { name, inputs, outputs, weightBytes, onnx } = graph;
    const sequential = this.#options.sequential?.has(name) ?? false;
    const facts = { inputs, outputs, weightBytes, sequential, onnxBytes: onnx.length };
    return this.#request(child, { kind: "load", name, ...facts }, [onnx]);
  }

  #spawn(): RunningChild {
    const process_ = spawn(
      process.execPath,
      [RUNNER_SCRIPT, ...runnerArguments(this.#options.device, this.#options.role ?? "rank 0")],
      {
        stdio: ["ignore", "ignore", "pipe", "pipe"],
        env: {
          MALLOC_MMAP_THRESHOLD_: String(MALLOC_MMAP_THRESHOLD_BYTES),
          ...this.#options.environment,
          ...KERNEL_ENVIRONMENT,
        },
      },
    );
    const pending = new Map<number, Pending>();
    const stderr: string[] = [];
    process_.stderr!.setEncoding("utf8").on("data", (text: string) => {
      stderr.push(...text.split("\n").filter((line) => line.trim() !== ""));
      stderr.splice(0, stderr.length - STDERR_LINES_KEPT);
    });
    const channel = new FrameChannel(process_.stdio[DRIVER_DESCRIPTOR] as Socket, {
      onFrame: (frame) => this.#receive(child, frame),
      onEnd: (error) => {
        if (error === undefined) return;
        stderr.push(`Error: ${error.message}`);
        process_.kill("SIGKILL");
      },
    });
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const child: RunningChild = { process: process_, ended, channel, pending, stderr };
    this.#child = child;
    process_.once("error", (error) => {
      this.#died(child, error.message);
      end();
    });
    // `close` comes after the last bytes of stderr, so that the reason is complete.
    process_.once("close", (code, signal) => {
      this.#died(child, signal === null ? `exit code ${code}` : `signal ${signal}`);
      end();
    });
    return child;
  }

  #receive(child: RunningChild, frame: Frame): void {
    const message = frame.header as RunnerMessage;
    if (message.kind === "ready") {
      const { device, simulated } = message;
      this.#options.log("runner ready", { device, simulated, pid: child.process.pid });
      return;
    }
    const pending = child.pending.get(message.id);
    assert(pending !== undefined, `the runner answered ${message.id}, which nobody asked`);
    child.pending.delete(message.id);
    if (message.kind === "failed") return pending.reject(fromErrorRecord(message.error));
    if (message.kind === "loaded")
      return pending.resolve({ tensors: {}, seconds: message.seconds });
    const tensors = tensorsFrom(message.tensors, frame.payload);
    const { seconds, loadSeconds } = message;
    pending.resolve({ tensors, seconds, loadSeconds });
  }

  #died(child: RunningChild, how: string): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    child.channel.close();
    const error = diedError(child, how);
    const [atHead, ...behind] = child.pending.values();
    child.pending.clear();
    if (!this.#stopping) this.#restart(error);
    atHead?.reject(error);
    for (const pending of behind) {
      pending.reject(this.#stopping ? stoppedError() : notReachedError(how));
    }
  }

  #restart(error: AppError): void {
    this.#deathsInARow += 1;
    this.#options.log("runner died", { error: error.message, inARow: this.#deathsInARow });
    if (this.#deathsInARow >= DEATHS_IN_A_ROW_MAX) return this.#break(brokenError(error));
    const delay = RESTART_DELAY_MS_FIRST * 2 ** (this.#deathsInARow - 1);
    this.#restarts += 1;
    const ready = new Promise((resolve) =>
      setTimeout(resolve, Math.min(delay, RESTART_DELAY_MS_MAX)),
    ).then(() => this.#launch());
    this.#ready = ready;
    // A launch that fails because its child died is followed by `#died`, which tries again.
    ready.catch((thrown: unknown) => {
      const isLast = this.#ready === ready && this.#child !== undefined;
      if (isLast) this.#break(brokenError(toAppError(thrown)));
    });
  }

  #break(error: AppError): void {
    this.#broken = error;
    this.#ready = Promise.reject(error);
    this.#ready.catch(() => undefined);
    this.#options.onBroken(error);
  }
}

function sendRetained(child: RunningChild, key: string, tensors: NamedTensors): void {
  const writer = new PayloadWriter();
  child.channel.send({ kind: "retain", key, tensors: writer.addAll(tensors) }, writer.parts);
}

function diedError(child: RunningChild, how: string): AppError {
  const last = child.stderr.findLast((line) => /error/i.test(line)) ?? child.stderr.at(-1);
  const said = last === undefined ? "" : `; it last said: ${last}`;
  return new AppError("unavailable", `the device's runner process died: ${how}${said}`, {
    reason: "RUNNER_DIED",
    retryable: true,
  });
}

/** Nobody's fault: the call had not begun. */
function notReachedError(how: string): AppError {
  const message = `the device's runner process ended before it reached the call: ${how}`;
  return new AppError("unavailable", message, { reason: "STAGE_LOST", retryable: true });
}

/** Nothing will run here any more, and nobody is to try. */
function stoppedError(): AppError {
  const message = "the device's runner was stopped";
  return new AppError("cancelled", message, { reason: "RUNNER_BROKEN", retryable: true });
}

function brokenError(last: AppError): AppError {
  const message = `the device's runner cannot be kept alive; the last time: ${last.message}`;
  return new AppError("unavailable", message, {
    reason: "RUNNER_BROKEN",
    retryable: true,
    cause: last,
  });
}
