/**
 * The engine with a real runner and no bus: requests in, pixels out. For tests and benchmarks that
 * ask what the engine computes, not how jobs travel.
 */
import { AppError, type ErrorRecord, fromErrorRecord } from "@fluxline/kernel/error.ts";
import {
  type ImageRequest,
  type RequestedImage,
  resolveRequest,
} from "@fluxline/kernel/image-request.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { Engine, type EngineUnit } from "@fluxline/gpu-node/adapters/engine.ts";
import type { ImagePreview } from "@fluxline/gpu-node/adapters/preview-maker.ts";
import type { RunnerArguments } from "@fluxline/gpu-node/adapters/runner/arguments.ts";
import { DeviceRunner } from "@fluxline/gpu-node/adapters/runner/device-runner.ts";
import type { DriverLimits, ReleaseReason } from "@fluxline/gpu-node/core/driver.ts";
import { ONE_DEVICE } from "@fluxline/gpu-node/core/step-batcher.ts";
import type { ImageModel, Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { describeModel } from "@fluxline/gpu-node/models/families.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";

export type JobEnd =
  | { readonly kind: "finished"; readonly images: readonly Pixels[] }
  | { readonly kind: "failed"; readonly error: ErrorRecord; readonly blamed: boolean }
  | {
      readonly kind: "released";
      readonly reason: ReleaseReason;
      readonly units: readonly Required<EngineUnit>[];
    }
  | { readonly kind: "dropped" };

export interface BenchJob {
  readonly id: string;
  readonly end: Promise<JobEnd>;
}

export interface BenchOptions {
  readonly device?: RunnerArguments;
  readonly limits?: Partial<DriverLimits>;
  /** Told after every step, before the next begins. */
  readonly onProgress?: (id: string, stepsDone: number) => void;
  readonly onPreview?: (id: string, preview: ImagePreview) => void;
}

export class ImageBench {
  readonly model: ImageModel;
  readonly runner: DeviceRunner;
  readonly engine: Engine;
  /** Of the runner that lives now. */
  runnerPid = 0;
  readonly #ends = new Map<string, (end: JobEnd) => void>();
  readonly #images = new Map<string, Pixels[]>();
  #nextId = 0;

  private constructor(model: ImageModel, options: BenchOptions) {
    this.model = model;
    this.runner = new DeviceRunner({
      device: options.device ?? { provider: "cpu", threads: 1 },
      graphs: [...model.graphs.values()],
      environment: process.env,
      log: (message, facts) => {
        if (message === "runner ready") this.runnerPid = Number(facts["pid"]);
      },
      onBroken: () => undefined,
    });
    const limits: DriverLimits = {
      rowsMax: 4,
      residentsMax: 16,
      batching: "full",
      stepsInFlightMax: 1,
      devices: ONE_DEVICE,
      ...options.limits,
    };
    const end = (id: string, how: JobEnd): void => this.#ends.get(id)?.(how);
    this.engine = new Engine(
      model,
      this.runner,
      limits,
      {
        store: (id, unit, pixels) => {
          this.#images.get(id)![unit] = pixels;
          return Promise.resolve();
        },
      },
      {
        started: () => undefined,
        progress: (id, phase, stepsDone) => {
          if (phase === "denoising") options.onProgress?.(id, stepsDone);
        },
        boundary: () => undefined,
        preview: (id, preview) => options.onPreview?.(id, preview),
        finished: (id) => end(id, { kind: "finished", images: this.#images.get(id)! }),
        failed: (id, error, blamed) => end(id, { kind: "failed", error, blamed }),
        released: (id, reason, units) => end(id, { kind: "released", reason, units }),
        dropped: (id) => end(id, { kind: "dropped" }),
        drained: () => undefined,
      },
      realClock,
    );
  }

  static async open(folder: string, options: BenchOptions = {}): Promise<ImageBench> {
    const model = describeModel(await openCheckpoint(folder), { runType: "float32" });
    const bench = new ImageBench(model, options);
    await bench.runner.start();
    return bench;
  }

  resolve(requested: RequestedImage): ImageRequest {
    const resolution = resolveRequest(this.model.profile, requested, 0n);
    if (resolution.ok) return resolution.request;
    throw new AppError("invalid_argument", JSON.stringify(resolution.violations));
  }

  begin(requested: RequestedImage, units?: readonly EngineUnit[]): BenchJob {
    const request = this.resolve(requested);
    const id = `job-${this.#nextId++}`;
    const { promise, resolve } = Promise.withResolvers<JobEnd>();
    this.#ends.set(id, resolve);
    this.#images.set(id, []);
    const all = Array.from({ length: request.imageCount }, (_, index) => ({ index, step: 0 }));
    const terms = { tenant: "default", share: 1, priorityClass: "standard" } as const;
    this.engine.assign({ id, request, units: units ?? all, alone: false, ...terms });
    return { id, end: promise };
  }

  /** The finished images; throws what the job failed with. */
  async images(requested: RequestedImage): Promise<readonly Pixels[]> {
    return finishedImages(await this.begin(requested).end);
  }

  close(): Promise<void> {
    return this.runner.stop();
  }
}

export function finishedImages(end: JobEnd): readonly Pixels[] {
  if (end.kind === "finished") return end.images;
  if (end.kind === "failed") throw fromErrorRecord(end.error);
  throw new AppError("internal", `the job was ${end.kind}`);
}
