/**
 * A device of a replica group as whoever hands it work sees it: it runs one graph, or the first of
 * a chain of graphs and passes what it computed to the rank behind, so that activations cross each
 * link once. `LocalStage` is one whose runner is a child of this process.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { NamedTensors } from "../core/tensor.ts";
import type { DeviceRunner, GraphCall, InputPart } from "./runner/device-runner.ts";

export interface StageResult {
  readonly tensors: NamedTensors;
  /** Seconds on the device of each hop, in order. */
  readonly seconds: readonly number[];
}

/** What a heartbeat says of a rank. */
export interface StageHealth {
  readonly rank: number;
  readonly provider: string;
  readonly ready: boolean;
  readonly rssBytes: number;
  readonly restarts: number;
  /** What its device has computed for calls since its process was started. */
  readonly busySeconds: number;
  /** Since then, when that was read: their differences over time are its occupancy. */
  readonly upSeconds: number;
}

export interface StageDevice {
  /**
   * Runs the first hop here and the others at the ranks behind; the outputs of each are inputs of
   * the next. RUNNER_DIED: a runner died under this very call. STAGE_LOST: it was lost on its way,
   * by nobody's fault, and may be made again.
   */
  run(hops: readonly GraphCall[]): Promise<StageResult>;
  /** Keeps tensors there under a key until `release`, whatever is restarted meanwhile. */
  retain(key: string, tensors: NamedTensors): void;
  release(key: string): void;
  start(): Promise<void>;
  stop(): Promise<void>;
  health(): StageHealth;
}

export interface LocalStageOptions {
  readonly rank: number;
  readonly provider: string;
  readonly runner: DeviceRunner;
  /** The rank behind; absent at the last one. */
  readonly next?: Pick<StageDevice, "run"> | undefined;
}

export class LocalStage implements StageDevice {
  readonly #options: LocalStageOptions;

  constructor(options: LocalStageOptions) {
    this.#options = options;
  }

  async run([here, ...behind]: readonly GraphCall[]): Promise<StageResult> {
    const { runner, next } = this.#options;
    assert(here !== undefined, "a call has at least one hop");
    const { tensors, seconds } = await runner.run(here);
    const [following, ...rest] = behind;
    if (following === undefined) return { tensors, seconds: [seconds] };
    assert(next !== undefined, `nothing is behind rank ${this.#options.rank}`);
    const result = await next.run([withInputs(following, tensors), ...rest]);
    return { tensors: result.tensors, seconds: [seconds, ...result.seconds] };
  }

  retain(key: string, tensors: NamedTensors): void {
    this.#options.runner.retain(key, tensors);
  }

  release(key: string): void {
    this.#options.runner.release(key);
  }

  start(): Promise<void> {
    return this.#options.runner.start();
  }

  stop(): Promise<void> {
    return this.#options.runner.stop();
  }

  health(): StageHealth {
    const { rank, provider, runner } = this.#options;
    const { ready, restarts } = runner;
    const rssBytes = runner.rssBytes();
    return { rank, provider, ready, rssBytes, restarts, ...runner.usage() };
  }
}

/** The call with the outputs of the hop before it as inputs. */
export function withInputs(call: GraphCall, given: NamedTensors): GraphCall {
  const inputs: Record<string, readonly InputPart[]> = { ...call.inputs };
  for (const [name, tensor] of Object.entries(given)) inputs[name] = [{ tensor }];
  return { ...call, inputs };
}
