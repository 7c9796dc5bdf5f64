/**
 * Carries out what the driver core decides: turns tasks into calls of the devices, keeps latents
 * and plans of the residents, hands finished pixels to the image store, and brings every outcome
 * back to the core. It knows no family and no bus.
 */
import { assert, unreachable } from "@fluxline/kernel/assert.ts";
import type { Clock } from "@fluxline/kernel/clock.ts";
import { AppError, type ErrorRecord, toErrorRecord } from "@fluxline/kernel/error.ts";
import type { Advisory, ImageRequest } from "@fluxline/kernel/image-request.ts";
import { rowsThatFit } from "@fluxline/kernel/memory-fit.ts";
import { steadyClock } from "@fluxline/platform/steady-clock.ts";
import {
  type Admission,
  type DevicesState,
  Driver,
  type DriverEffect,
  type DriverInput,
  type DriverLimits,
  type ProgressPhase,
  type ReleaseReason,
} from "../core/driver.ts";
import { OUT_OF_MEMORY, outOfMemoryError } from "../core/out-of-memory.ts";
import type { ImageModel, ImagePlan, Pass, Pixels, TextEncoding } from "../core/image-model.ts";
import type { Row, Task } from "../core/step-batcher.ts";
import type { StepCostTable } from "../core/step-cost.ts";
import type { NamedTensors } from "../core/tensor.ts";
import type { ServiceTerms } from "../core/turn.ts";
import { type ImagePreview, PreviewMaker } from "./preview-maker.ts";
import type { GroupDevices } from "./group-devices.ts";
import { callInputs, named } from "./graph-call.ts";
import { PictureDecoder } from "./picture-decoder.ts";
import { RetainedCache } from "./retained-cache.ts";
import type { InputPart } from "./runner/device-runner.ts";

/** Text encodings and position tables that no resident uses, kept for the next request. */
const RETAINED_LIMITS = { idleBytesMax: 256 * 1024 * 1024, idleKeysMax: 1024 };

export interface EngineJob extends ServiceTerms {
  readonly id: string;
  readonly request: ImageRequest;
  /** Units still to be made; with the latents at `step` when it is not 0. */
  readonly units: readonly EngineUnit[];
  readonly alone: boolean;
}

export interface EngineUnit {
  readonly index: number;
  readonly step: number;
  readonly latents?: Float32Array;
}

/** What the engine asks what to do next; a benchmark puts other policies in its place. */
export type Decider = Pick<Driver, "admission" | "draining" | "residents" | "step" | "stepCosts">;

/** Keeps a finished image. Resolves once it cannot be lost. */
export interface ImageStore {
  store(id: string, unit: number, pixels: Pixels, plan: ImagePlan): Promise<void>;
}

/** What the engine tells of its jobs; each ends with one of the last four. */
export interface EngineListener {
  /** Its first work has begun; with the advice that only planning could give. */
  started(id: string, advisories: readonly Advisory[]): void;
  progress(id: string, phase: ProgressPhase, stepsDone: number, stepsTotal: number): void;
  /** An image stands at a boundary between two of its steps; its latents will not change. */
  boundary(id: string, unit: Required<EngineUnit>): void;
  /** A step of so many rows failed; all of them go on, in smaller batches. */
  batchFailed(shapeKey: string, rows: number, error: ErrorRecord): void;
  /** An image of a request that asked for previews, at one of the boundaries that are due. */
  preview(id: string, preview: ImagePreview): void;
  finished(id: string): void;
  failed(id: string, error: ErrorRecord, blamed: boolean): void;
  /** `units` stand at step boundaries; those already stored are not among them. */
  released(id: string, reason: ReleaseReason, units: readonly Required<EngineUnit>[]): void;
  dropped(id: string): void;
  drained(): void;
}

interface UnitState {
  readonly step: number;
  /** Undefined until its noise has been drawn. */
  readonly latents: Float32Array | undefined;
}

interface EngineState {
  readonly plan: ImagePlan;
  readonly units: Map<number, UnitState>;
  readonly pixels: Map<number, Pixels>;
  /** Retained keys that this job holds, with the names of their tensors. */
  readonly held: Map<string, readonly string[]>;
  /** Boundaries at which previews are due. */
  readonly previews: ReadonlySet<number>;
}

interface TaskOutcome {
  readonly notFinite?: readonly Row[];
  /** Of a step: what its slowest stage took. */
  readonly seconds?: number;
}

export class Engine {
  readonly #model: ImageModel;
  readonly #devices: GroupDevices;
  readonly #store: ImageStore;
  readonly #listener: EngineListener;
  readonly #driver: Decider;
  readonly #cache: RetainedCache;
  readonly #previews: PreviewMaker;
  readonly #decoder: PictureDecoder;
  readonly #nowMs: () => number;
  readonly #jobs = new Map<string, EngineState>();

  constructor(
    model: ImageModel,
    devices: GroupDevices,
    limits: DriverLimits,
    store: ImageStore,
    listener: EngineListener,
    clock: Clock,
    driver: Decider = new Driver(limits),
  ) {
    this.#model = model;
    this.#devices = devices;
    this.#store = store;
    this.#listener = listener;
    this.#driver = driver;
    this.#nowMs = steadyClock(clock);
    this.#cache = new RetainedCache(devices, RETAINED_LIMITS);
    this.#previews = new PreviewMaker(model);
    this.#decoder = new PictureDecoder(model, devices);
  }

  admission(id: string, units: number): Admission {
    return this.#driver.admission(id, units);
  }

  get draining(): boolean {
    return this.#driver.draining;
  }

  get stepCosts(): StepCostTable {
    return this.#driver.stepCosts;
  }

  residents(): ReturnType<Driver["residents"]> {
    return this.#driver.residents();
  }

  /** Plans and begins a job that `admission` accepted; throws an AppError if it cannot be planned. */
  assign(job: EngineJob): ImagePlan {
    const { request, units: asked, ...facts } = job;
    const plan = this.#model.plan(request);
    const units = asked.map(({ index, step, latents }): [number, UnitState] => {
      return [index, { step: latents === undefined ? 0 : step, latents }];
    });
    const state: EngineState = {
      plan,
      units: new Map(units),
      pixels: new Map(),
      held: new Map(),
      previews: PreviewMaker.steps(plan),
    };
    this.#jobs.set(job.id, state);
    this.#send({
      kind: "assigned",
      job: {
        ...facts,
        shapeKey: plan.shapeKey,
        steps: plan.steps,
        passes: plan.encodings.negative === undefined ? 1 : 2,
        units: [...state.units].map(([index, { step }]) => ({ index, step })),
        rowsMax: rowsThatFit(this.#model.profile.memory, {
          pixels: request.width * request.height,
          textTokens: request.maxSequenceLength,
        }),
        needsProbe: state.previews.size > 0 && !this.#previews.begun,
      },
    });
    return plan;
  }

  revoke(id: string, reason: "cancelled" | "preempted"): void {
    this.#send({ kind: "revoked", id, reason });
  }

  fence(id: string): void {
    this.#send({ kind: "fenced", id });
  }

  drain(): void {
    this.#send({ kind: "drain" });
  }

  /** What has become of the ranks; nothing is begun unless the group is whole. */
  devicesAre(state: DevicesState): void {
    this.#send({ kind: "devices", state });
  }

  #send(input: DriverInput): void {
    for (const effect of this.#driver.step(input, this.#nowMs())) this.#carryOut(effect);
  }

  #carryOut(effect: DriverEffect): void {
    switch (effect.kind) {
      case "run":
        void this.#perform(effect.task);
        return;
      case "store":
        void this.#storeImage(effect.id, effect.unit);
        return;
      case "started":
        return this.#listener.started(effect.id, this.#state(effect.id).plan.advisories);
      case "progress":
        return this.#listener.progress(
          effect.id,
          effect.phase,
          effect.stepsDone,
          effect.stepsTotal,
        );
      case "batch-failed":
        return this.#listener.batchFailed(effect.shapeKey, effect.rows, effect.error);
      case "finished":
        this.#forget(effect.id);
        return this.#listener.finished(effect.id);
      case "failed":
        this.#forget(effect.id);
        return this.#listener.failed(effect.id, effect.error, effect.blamed);
      case "released":
        return this.#listener.released(effect.id, effect.reason, this.#forget(effect.id));
      case "dropped":
        this.#forget(effect.id);
        return this.#listener.dropped(effect.id);
      case "drained":
        return this.#listener.drained();
      default:
        return unreachable(effect, "driver effect");
    }
  }

  async #perform(task: Task): Promise<void> {
    let input: DriverInput;
    try {
      input = { kind: "task-done", task, ...(await this.#runTask(task)) };
    } catch (thrown) {
      input = { kind: "task-failed", task, error: this.#explained(task, toErrorRecord(thrown)) };
    }
    this.#send(input);
  }

  /** What one image found no memory for is told with its numbers; a load says so itself. */
  #explained(task: Task, error: ErrorRecord): ErrorRecord {
    const [id, mate] = task.kind === "step" ? task.rows.map((row) => row.id) : [task.id];
    if (error.reason !== OUT_OF_MEMORY || error.retryable || mate !== undefined) return error;
    return outOfMemoryError(error, task.kind, this.#state(id!).plan.request);
  }

  async #runTask(task: Task): Promise<TaskOutcome> {
    switch (task.kind) {
      case "encode":
        await this.#encode(this.#state(task.id));
        return {};
      case "probe":
        await this.#makePreviews(this.#state(task.id));
        return {};
      case "step":
        return this.#denoise(task.rows);
      case "decode":
        await this.#decode(task.id, task.unit);
        return {};
      default:
        return unreachable(task, "task");
    }
  }

  async #encode(state: EngineState): Promise<void> {
    await this.#drawNoise(state);
    const { plan } = state;
    const { positive, negative } = plan.encodings;
    await this.#hold(state, sharedKey(plan), () => plan.sharedInputs());
    const isTwo = negative !== undefined && negative.key !== positive.key;
    const texts = isTwo ? [positive, negative] : [positive];
    const missing = texts.filter(({ key }) => !state.held.has(key) && !this.#cache.has(key));
    const made = await this.#conditioning(missing);
    for (const text of texts) {
      // One that was there may have been let go meanwhile.
      const make = async () =>
        made.get(text.key) ?? (await this.#conditioning([text])).get(text.key)!;
      await this.#hold(state, text.key, make);
    }
  }

  /** Image by image, so that the event loop is held up for one at a time. */
  async #drawNoise({ plan, units }: EngineState): Promise<void> {
    if ([...units.values()].every(({ latents }) => latents !== undefined)) return;
    let index = 0;
    for (const latents of plan.initialLatents()) {
      const unit = units.get(index);
      if (unit !== undefined && unit.latents === undefined) units.set(index, { step: 0, latents });
      index += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #hold(
    state: EngineState,
    key: string,
    make: () => NamedTensors | Promise<NamedTensors>,
  ): Promise<void> {
    if (state.held.has(key)) return; // encoded before a runner died
    state.held.set(key, await this.#cache.hold(key, make));
  }

  /** By key of the text. */
  async #conditioning(texts: readonly TextEncoding[]): Promise<ReadonlyMap<string, NamedTensors>> {
    const all = texts.flatMap(({ key, runs }) => runs.map((run) => ({ key, run })));
    // Graph by graph, so that one which is loaded for each use is loaded once for all texts.
    const graphs = new Set(all.map(({ run }) => run.graph));
    const inOrder = [...graphs].flatMap((graph) => all.filter(({ run }) => run.graph === graph));
    // Asked for at once: encoders on one device run back to back, with no step between them.
    const parts = inOrder.map(async ({ key, run: { graph, inputs, outputs } }) => {
      const { tensors } = await this.#devices.run({
        graph,
        inputs: callInputs(inputs),
        outputs: Object.keys(outputs),
      });
      const entries = Object.entries(outputs);
      return { key, made: entries.map(([output, name]) => [name, named(tensors, output)]) };
    });
    // One that fails is not begun again while another is still on its device.
    await Promise.allSettled(parts);
    const made = new Map<string, NamedTensors>();
    for (const { key, made: some } of await Promise.all(parts)) {
      made.set(key, { ...made.get(key), ...Object.fromEntries(some) });
    }
    return made;
  }

  async #denoise(rows: readonly Row[]): Promise<TaskOutcome> {
    const slots = rows.flatMap((row) => this.#passesOf(row).map((pass) => ({ row, pass })));
    const { prediction, seconds } = await this.#predict(slots);
    const size = prediction.length / slots.length;
    const at = (slot: number): Float32Array => prediction.subarray(slot * size, (slot + 1) * size);
    const notFinite: Row[] = [];
    let slot = 0;
    for (const row of rows) {
      const { plan, units } = this.#state(row.id);
      const { step: done, latents: before } = this.#unit(row);
      const twice = plan.encodings.negative !== undefined;
      const predictions = { positive: at(slot), ...(twice && { negative: at(slot + 1) }) };
      slot += twice ? 2 : 1;
      const latents = plan.advance(done, before, predictions);
      const step = done + 1;
      if (!latents.every(Number.isFinite)) {
        notFinite.push(row); // it stays at the boundary before
        continue;
      }
      units.set(row.unit, { step, latents });
      if (step < plan.steps) {
        this.#listener.boundary(row.id, { index: row.unit, step, latents });
        this.#preview(row, step, () => plan.estimate(done, before, predictions));
      }
    }
    return { notFinite, seconds };
  }

  #preview({ id, unit }: Row, step: number, estimate: () => Float32Array): void {
    const state = this.#state(id);
    if (!state.previews.has(step)) return;
    const wanted = (): boolean => this.#jobs.get(id) === state;
    this.#previews.drawSoon(state.plan, estimate, wanted, (pixels) => {
      this.#listener.preview(id, { index: unit, step, pixels });
    });
  }

  #passesOf(row: Row): Pass[] {
    const twice = this.#state(row.id).plan.encodings.negative !== undefined;
    return twice ? ["positive", "negative"] : ["positive"];
  }

  /** One pass through the denoiser for every slot of a batch; seconds of its slowest stage. */
  async #predict(
    slots: readonly { row: Row; pass: Pass }[],
  ): Promise<{ prediction: Float32Array; seconds: number }> {
    const name = this.#model.prediction;
    const inputs = this.#stepInputs(slots);
    const { tensors, stageSeconds } = await this.#devices.runChain({ inputs, outputs: [name] });
    const prediction = named(tensors, name).data as Float32Array;
    return { prediction, seconds: Math.max(...stageSeconds) };
  }

  #stepInputs(slots: readonly { row: Row; pass: Pass }[]): Record<string, InputPart[]> {
    const inputs: Record<string, InputPart[]> = {};
    const add = (name: string, part: InputPart): void => {
      (inputs[name] ??= []).push(part);
    };
    const first = this.#state(slots[0]!.row.id);
    const shared = sharedKey(first.plan);
    for (const name of first.held.get(shared)!) add(name, { key: shared, name });
    for (const { row, pass } of slots) {
      const { plan, held } = this.#state(row.id);
      const { step, latents } = this.#unit(row);
      const encoding = plan.encodings[pass];
      assert(encoding !== undefined, `${row.id} has no ${pass} pass`);
      for (const name of held.get(encoding.key)!) add(name, { key: encoding.key, name });
      for (const [name, tensor] of Object.entries(plan.rowInputs(step, latents))) {
        add(name, { tensor });
      }
    }
    return inputs;
  }

  async #decode(id: string, unit: number): Promise<void> {
    const { plan, pixels } = this.#state(id);
    const { latents } = this.#unit({ id, unit });
    const picture = await this.#decoder.picture(plan, latents);
    if (!(picture.data as Float32Array).every(Number.isFinite)) throw pictureError(unit);
    pixels.set(unit, plan.pixels(picture));
    this.#previews.learn(plan, latents, pixels.get(unit)!);
  }

  #makePreviews({ plan, units }: EngineState): Promise<void> {
    const [latents] = [...units.values()].flatMap((unit) => unit.latents ?? []);
    assert(latents !== undefined, "a probe comes after the noise was drawn");
    return this.#previews.begin(plan, (probe) => this.#decoder.cells(probe, plan, latents));
  }

  async #storeImage(id: string, unit: number): Promise<void> {
    const { plan, pixels, units } = this.#state(id);
    let input: DriverInput;
    try {
      await this.#store.store(id, unit, pixels.get(unit)!, plan);
      input = { kind: "stored", id, unit };
      units.delete(unit);
    } catch (thrown) {
      input = { kind: "store-failed", id, unit, error: toErrorRecord(thrown) };
    }
    pixels.delete(unit);
    this.#send(input);
  }

  #state(id: string): EngineState {
    const state = this.#jobs.get(id);
    assert(state !== undefined, `${id} is not resident`);
    return state;
  }

  #unit({ id, unit }: Row): { step: number; latents: Float32Array } {
    const { step, latents } = this.#state(id).units.get(unit)!;
    assert(latents !== undefined, `image ${unit} of ${id} has no latents yet`);
    return { step, latents };
  }

  /** Lets go of everything the job holds; returns the begun units that are not stored. */
  #forget(id: string): Required<EngineUnit>[] {
    const { units, held } = this.#state(id);
    this.#jobs.delete(id);
    for (const key of held.keys()) this.#cache.letGo(key);
    return [...units].flatMap(([index, { step, latents }]) =>
      latents === undefined ? [] : [{ index, step, latents }],
    );
  }
}

function pictureError(unit: number): AppError {
  const what = `the decoder gave no finite numbers for image ${unit}`;
  return new AppError("data_loss", `${what}; another seed or run type may do`, {
    reason: "PICTURE_NOT_FINITE",
    retryable: false,
  });
}

function sharedKey(plan: ImagePlan): string {
  return `shared ${plan.shapeKey}`;
}
