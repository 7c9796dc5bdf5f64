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
import { type Decider, Engine, type EngineUnit } from "@fluxline/gpu-node/adapters/engine.ts";
import type { StageLinks } from "@fluxline/gpu-node/adapters/stage-links.ts";
import type { ImagePreview } from "@fluxline/gpu-node/adapters/preview-maker.ts";
import type { GroupDevices } from "@fluxline/gpu-node/adapters/group-devices.ts";
import { layOutDevices } from "@fluxline/gpu-node/adapters/group-devices-layout.ts";
import type { RunnerArguments } from "@fluxline/gpu-node/adapters/runner/arguments.ts";
import { prepareQuantised } from "@fluxline/gpu-node/adapters/quantisation/quantised-cache.ts";
import { DeviceRunner } from "@fluxline/gpu-node/adapters/runner/device-runner.ts";
import type { DevicesState, DriverLimits, ReleaseReason } from "@fluxline/gpu-node/core/driver.ts";
import {
  deviceMap,
  type ModelLayout,
  type Place,
  planStages,
  type StagePlan,
} from "@fluxline/gpu-node/core/stage-plan.ts";
import type { ServiceTerms } from "@fluxline/gpu-node/core/turn.ts";
import type { ImageModel, Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { describeModel, modelLayout } from "@fluxline/gpu-node/models/families.ts";
import type { RunType } from "@fluxline/gpu-node/onnx/graph.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";
import type { StageProcesses } from "./stage-processes.ts";

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
  /** Default float32. */
  readonly runType?: RunType;
  /** Stages of the pipeline, each a runner of its own in this process tree; default 1. */
  readonly stages?: number;
  /** First blocks of stages 1 to the last; default: by block cost. */
  readonly cuts?: readonly number[];
  /** Rank or `cpu` of clip, t5 and vae; default: as a group places them. */
  readonly place?: Readonly<Record<string, Place>>;
  /** Components that are loaded for each use and let go after it. */
  readonly sequential?: readonly string[];
  /** Pixels along a side of the tiles in which larger pictures are decoded. */
  readonly decodeTile?: number;
  /** Ranks 1 and on as real processes, started with the same stages, cuts and places. */
  readonly processes?: StageProcesses;
  /** Int8 weights in blocks, in files in that folder; default: float32 everywhere. */
  readonly quantisedFolder?: string | undefined;
  /** Told of what is done to have them. */
  readonly onQuantised?: (message: string, facts: Readonly<Record<string, unknown>>) => void;
  readonly onDevices?: (state: DevicesState) => void;
  /** Of the runners, besides this process's own. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Decides in the driver's place. */
  readonly decider?: Decider;
  /** Told after every step, before the next begins. */
  readonly onProgress?: (id: string, stepsDone: number) => void;
  /** Told of a step of so many rows that failed, and why. */
  readonly onBatchFailed?: (rows: number, reason: string) => void;
  readonly onPreview?: (id: string, preview: ImagePreview) => void;
}

export class ImageBench {
  readonly model: ImageModel;
  readonly plan: StagePlan;
  readonly devices: GroupDevices;
  /** Of this process tree, by rank; one beside the stages comes last. */
  readonly runners: readonly DeviceRunner[];
  readonly engine: Engine;
  /** Of the runners that live now. */
  readonly runnerPids: number[] = [];
  /** Sequential graphs in the order in which they were loaded for a call. */
  readonly loads: string[] = [];
  readonly #ends = new Map<string, (end: JobEnd) => void>();
  readonly #images = new Map<string, Pixels[]>();
  #nextId = 0;

  private constructor(
    model: ImageModel,
    layout: ModelLayout,
    plan: StagePlan,
    links: StageLinks | undefined,
    options: BenchOptions,
  ) {
    this.model = model;
    this.plan = plan;
    const device = options.device ?? { provider: "cpu", threads: 1 };
    const runners: DeviceRunner[] = [];
    this.devices = layOutDevices({
      model,
      layout,
      plan,
      provider: device.provider,
      remote: links?.stages ?? [],
      makeRunner: ({ index, role, graphs, sequential }) => {
        runners[index] = new DeviceRunner({
          device,
          role,
          graphs,
          sequential,
          environment: { ...process.env, ...options.environment },
          log: (message, facts) => {
            if (message === "runner ready") this.runnerPids[index] = Number(facts["pid"]);
            if (message === "graph loaded for its call") this.loads.push(String(facts["graph"]));
          },
          onBroken: () => undefined,
        });
        return runners[index];
      },
    });
    this.runners = runners;
    const limits: DriverLimits = {
      rowsMax: 4,
      residentsMax: 16,
      batching: "full",
      stepsInFlightMax: plan.stages.length,
      devices: deviceMap(layout, plan),
      ...options.limits,
    };
    const end = (id: string, how: JobEnd): void => this.#ends.get(id)?.(how);
    this.engine = new Engine(
      model,
      this.devices,
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
        batchFailed: (_, rows, { reason }) => options.onBatchFailed?.(rows, reason),
        preview: (id, preview) => options.onPreview?.(id, preview),
        finished: (id) => end(id, { kind: "finished", images: this.#images.get(id)! }),
        failed: (id, error, blamed) => end(id, { kind: "failed", error, blamed }),
        released: (id, reason, units) => end(id, { kind: "released", reason, units }),
        dropped: (id) => end(id, { kind: "dropped" }),
        drained: () => undefined,
      },
      realClock,
      options.decider,
    );
  }

  static async open(folder: string, options: BenchOptions = {}): Promise<ImageBench> {
    const checkpoint = await openCheckpoint(folder);
    const layout = modelLayout(checkpoint);
    const { stages = 1, cuts, place = {}, sequential, decodeTile, quantisedFolder } = options;
    const { runType = "float32" } = options;
    const plan = planStages(layout, {
      stages,
      cuts,
      places: new Map(Object.entries(place)),
      sequential: new Set(sequential),
      decodeTile,
    });
    const computation = { runType, quantisedFolder };
    const model = describeModel(checkpoint, { ...computation, stages: plan.stages });
    await prepareQuantised(
      [...model.graphs.values()].flatMap(({ quantised }) => quantised),
      { threads: 2, log: options.onQuantised ?? (() => undefined) },
    );
    const links = await options.processes?.connect({
      onState: (state) => {
        options.onDevices?.(state);
        // The group is whole before it changes, and the bench is there by then.
        made.engine.devicesAre(state);
      },
    });
    const made = new ImageBench(model, layout, plan, links, options);
    await made.devices.start();
    return made;
  }

  /** The runner of rank 0. */
  get runner(): DeviceRunner {
    return this.runners[0]!;
  }

  get runnerPid(): number {
    return this.runnerPids[0]!;
  }

  resolve(requested: RequestedImage): ImageRequest {
    const resolution = resolveRequest(this.model.profile, requested, 0n);
    if (resolution.ok) return resolution.request;
    throw new AppError("invalid_argument", JSON.stringify(resolution.violations));
  }

  /** `terms`: what it claims beside the others, if not what everybody does. */
  begin(
    requested: RequestedImage,
    units?: readonly EngineUnit[],
    terms: Partial<ServiceTerms> = {},
  ): BenchJob {
    const request = this.resolve(requested);
    const id = `job-${this.#nextId++}`;
    const { promise, resolve } = Promise.withResolvers<JobEnd>();
    this.#ends.set(id, resolve);
    this.#images.set(id, []);
    const all = Array.from({ length: request.imageCount }, (_, index) => ({ index, step: 0 }));
    const usual = { tenant: "default", share: 1, priorityClass: "standard" } as const;
    this.engine.assign({ id, request, units: units ?? all, alone: false, ...usual, ...terms });
    return { id, end: promise };
  }

  /** The finished images; throws what the job failed with. */
  async images(requested: RequestedImage): Promise<readonly Pixels[]> {
    return finishedImages(await this.begin(requested).end);
  }

  close(): Promise<void> {
    return this.devices.stop();
  }
}

export function finishedImages(end: JobEnd): readonly Pixels[] {
  if (end.kind === "finished") return end.images;
  if (end.kind === "failed") throw fromErrorRecord(end.error);
  throw new AppError("internal", `the job was ${end.kind}`);
}
