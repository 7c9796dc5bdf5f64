/**
 * The driver of one replica group: which requests are resident, what the device does next, and
 * what is reported when. Synchronous and without I/O: `step(input, nowMs) -> effects`. Adapters run
 * the tasks, store the images, and bring the outcomes back as inputs.
 *
 *   assigned -> encode -> step .. step (boundary 0 .. n) -> decode -> store -> finished
 *                 a revoke, a drain or a failure ends it at the next boundary
 *
 * Invariants: at most `stepsInFlightMax` tasks are in flight; a unit is in at most one of them; whatever was
 * assigned is finished, failed or released exactly once; one row's end never touches its mates.
 */
import { assert, unreachable } from "@fluxline/kernel/assert.ts";
import { AppError, type ErrorRecord, toErrorRecord } from "@fluxline/kernel/error.ts";
import type { PriorityClass } from "@fluxline/kernel/priority-class.ts";
import {
  type BatchLimits,
  nextTask,
  type Resident,
  type ResidentUnit,
  type Row,
  type Task,
} from "./step-batcher.ts";
import { StepCostTable } from "./step-cost.ts";

/** A job's own runner deaths, alone on the device, after which it is blamed. */
const DEATHS_ALONE_MAX = 2;

export interface DriverLimits extends BatchLimits {
  /** Image units resident at a time. A job with more fills the group. */
  readonly residentsMax: number;
}

/** What a job may claim beside others; the same words in assignment, engine and driver. */
export interface ServiceTerms {
  readonly tenant: string;
  /** Weight of its tenant beside the others here; above 0. */
  readonly share: number;
  readonly priorityClass: PriorityClass;
  /** When it must be done, on the clock of `step`. */
  readonly deadlineMs?: number | undefined;
  /** When it was asked for, on the clock of `step`; by default when it is assigned. */
  readonly arrivalMs?: number | undefined;
}

/** What the driver must know of a job; tensors stay with the adapter. */
export interface JobFacts extends ServiceTerms {
  readonly id: string;
  readonly shapeKey: string;
  readonly steps: number;
  readonly passes: number;
  /** Units still to be made, each with the boundary from which it goes on. */
  readonly units: readonly { readonly index: number; readonly step: number }[];
  readonly alone: boolean;
}

export type ReleaseReason = "cancelled" | "preempted" | "drained";

/**
 * Of the ranks of the group, taken together. `broken`: one cannot be reached, nothing is begun.
 * `away`: that has lasted too long, residents are handed back and nothing is taken.
 */
export type DevicesState = "whole" | "broken" | "away";

export type DriverInput =
  | { readonly kind: "assigned"; readonly job: JobFacts }
  | { readonly kind: "revoked"; readonly id: string; readonly reason: "cancelled" | "preempted" }
  /** The leader holds this attempt for stale: drop it without a word. */
  | { readonly kind: "fenced"; readonly id: string }
  | { readonly kind: "drain" }
  | { readonly kind: "devices"; readonly state: DevicesState }
  /**
   * `notFinite`: rows whose latents are not numbers any more. `seconds`: of a step, what its
   * slowest stage took on its device; absent if nothing was measured.
   */
  | {
      readonly kind: "task-done";
      readonly task: Task;
      readonly notFinite?: readonly Row[];
      readonly seconds?: number | undefined;
    }
  | { readonly kind: "task-failed"; readonly task: Task; readonly error: ErrorRecord }
  | { readonly kind: "stored"; readonly id: string; readonly unit: number }
  | {
      readonly kind: "store-failed";
      readonly id: string;
      readonly unit: number;
      readonly error: ErrorRecord;
    };

export type ProgressPhase = "encoding" | "denoising" | "decoding" | "uploading";

export type DriverEffect =
  | { readonly kind: "run"; readonly task: Task }
  | { readonly kind: "started"; readonly id: string }
  | {
      readonly kind: "progress";
      readonly id: string;
      readonly phase: ProgressPhase;
      readonly stepsDone: number;
      readonly stepsTotal: number;
    }
  | { readonly kind: "store"; readonly id: string; readonly unit: number }
  | { readonly kind: "finished"; readonly id: string }
  | {
      readonly kind: "failed";
      readonly id: string;
      readonly error: ErrorRecord;
      readonly blamed: boolean;
    }
  /** The units that are not stored yet stand at their boundaries; `cancelled` keeps nothing. */
  | { readonly kind: "released"; readonly id: string; readonly reason: ReleaseReason }
  /** Fenced: the adapter forgets it. */
  | { readonly kind: "dropped"; readonly id: string }
  /** After a drain, once nothing is resident. */
  | { readonly kind: "drained" };

export type Admission = "accepted" | "full" | "draining" | "resident";

interface DriverJob extends Resident {
  started: boolean;
  deathsAlone: number;
  /** How it ends, decided while a task of it was in flight or being stored. */
  ending: DriverEffect | undefined;
}

export class Driver {
  readonly stepCosts = new StepCostTable();
  readonly #limits: DriverLimits;
  /** In order of arrival. */
  readonly #jobs = new Map<string, DriverJob>();
  #inFlight = 0;
  #lastKind: Task["kind"] | undefined;
  #draining = false;
  #devices: DevicesState = "whole";

  constructor(limits: DriverLimits) {
    this.#limits = limits;
  }

  /** Whether a job of so many units could be assigned now; `assigned` asserts it. */
  admission(id: string, units: number): Admission {
    if (this.#jobs.has(id)) return "resident";
    if (this.#draining) return "draining";
    if (this.#devices === "away") return "full";
    const { residentsMax } = this.#limits;
    const load = [...this.#jobs.values()].reduce((sum, job) => sum + job.units.length, 0);
    return load > 0 && load + units > residentsMax ? "full" : "accepted";
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Steps done and in all, per resident, in order of arrival. */
  residents(): { id: string; stepsDone: number; stepsTotal: number }[] {
    return [...this.#jobs.values()].map((job) => ({ id: job.id, ...stepCount(job) }));
  }

  step(input: DriverInput, _nowMs: number): DriverEffect[] {
    const effects = this.#apply(input);
    for (const job of this.#jobs.values()) effects.push(...this.#settle(job));
    while (this.#devices === "whole" && this.#inFlight < this.#limits.stepsInFlightMax) {
      const task = nextTask([...this.#jobs.values()], this.#lastKind, this.#limits);
      if (task === undefined) break;
      effects.push(...this.#begin(task));
    }
    if (this.#draining && this.#jobs.size === 0) effects.push({ kind: "drained" });
    return effects;
  }

  #apply(input: DriverInput): DriverEffect[] {
    switch (input.kind) {
      case "assigned":
        return this.#assign(input.job);
      case "revoked":
        return this.#end(input.id, { kind: "released", id: input.id, reason: input.reason });
      case "fenced":
        return this.#end(input.id, { kind: "dropped", id: input.id });
      case "drain":
        this.#draining = true;
        return this.#handBack();
      case "devices":
        this.#devices = input.state;
        return input.state === "away" ? this.#handBack() : [];
      case "task-done":
        this.#measure(input.task, input.seconds);
        return this.#taskDone(input.task, input.notFinite ?? []);
      case "task-failed":
        return this.#taskFailed(input.task, input.error);
      case "stored":
        return this.#stored(input.id, input.unit);
      case "store-failed":
        return this.#storeFailed(input.id, input.unit, input.error);
      default:
        return unreachable(input, "driver input");
    }
  }

  #assign(facts: JobFacts): DriverEffect[] {
    const admission = this.admission(facts.id, facts.units.length);
    assert(admission === "accepted", `assigned ${facts.id}: ${admission}`);
    assert(facts.units.length > 0, `assigned ${facts.id} without units`);
    const units = facts.units.map(({ index, step }): ResidentUnit => {
      assert(step >= 0 && step <= facts.steps, `${facts.id}: step ${step} of ${facts.steps}`);
      const phase = step === facts.steps ? "decoding" : "denoising";
      return { index, step, phase, inFlight: false };
    });
    this.#jobs.set(facts.id, {
      ...facts,
      units,
      encoding: "waiting",
      suspect: false,
      stopping: false,
      started: false,
      deathsAlone: 0,
      ending: undefined,
    });
    return [];
  }

  #handBack(): DriverEffect[] {
    return [...this.#jobs.keys()].flatMap((id) =>
      this.#end(id, { kind: "released", id, reason: "drained" }),
    );
  }

  /** The first end that is decided stands. */
  #end(id: string, ending: DriverEffect): DriverEffect[] {
    const job = this.#jobs.get(id);
    if (job === undefined) return [];
    job.ending ??= ending;
    job.stopping = true;
    return [];
  }

  /** Lets a job go that has stopped and has nothing in flight, or has all its images stored. */
  #settle(job: DriverJob): DriverEffect[] {
    const busy = job.encoding === "running" || job.units.some(isBusy);
    if (busy) return [];
    const complete = job.units.every((unit) => unit.phase === "stored");
    if (!complete && job.ending === undefined) return [];
    this.#jobs.delete(job.id);
    return [complete ? { kind: "finished", id: job.id } : job.ending!];
  }

  #begin(task: Task): DriverEffect[] {
    this.#inFlight += 1;
    this.#lastKind = task.kind;
    const effects: DriverEffect[] = [];
    for (const { job, units } of this.#members(task)) {
      if (task.kind === "encode") job.encoding = "running";
      for (const unit of units) unit.inFlight = true;
      if (!job.started) effects.push({ kind: "started", id: job.id });
      job.started = true;
      if (task.kind === "encode") effects.push(progress(job, "encoding"));
      if (task.kind === "decode") effects.push(progress(job, "decoding"));
    }
    effects.push({ kind: "run", task });
    return effects;
  }

  #measure(task: Task, seconds: number | undefined): void {
    if (task.kind !== "step" || seconds === undefined) return;
    const rows = task.rows.reduce((sum, row) => sum + this.#jobs.get(row.id)!.passes, 0);
    this.stepCosts.observe(task.shapeKey, rows, seconds);
  }

  #taskDone(task: Task, notFinite: readonly Row[]): DriverEffect[] {
    const effects: DriverEffect[] = [];
    for (const { job, units } of this.#landed(task)) {
      if (task.kind === "encode") job.encoding = "done";
      if (task.kind === "step") {
        effects.push(...this.#stepped(job, units, notFinite));
      }
      if (task.kind === "decode" && !job.stopping) {
        for (const unit of units) {
          unit.phase = "storing";
          effects.push(progress(job, "uploading"), { kind: "store", id: job.id, unit: unit.index });
        }
      }
    }
    return effects;
  }

  #stepped(
    job: DriverJob,
    units: readonly ResidentUnit[],
    notFinite: readonly Row[],
  ): DriverEffect[] {
    const bad = units.find((unit) =>
      notFinite.some((row) => row.id === job.id && row.unit === unit.index),
    );
    if (bad !== undefined) {
      const error = toErrorRecord(notFiniteError(bad.step + 1, bad.index));
      return this.#end(job.id, { kind: "failed", id: job.id, error, blamed: true });
    }
    for (const unit of units) {
      unit.step += 1;
      if (unit.step === job.steps) unit.phase = "decoding";
    }
    // It lives: whoever killed the runner, it was not this step of this job.
    job.deathsAlone = 0;
    job.suspect = false;
    return [progress(job, "denoising")];
  }

  /**
   * With mates, nobody knows whose fault it was: each goes on by itself, one row at a time; after
   * a death until a step of its own has succeeded, else (a batch too large, say) for good. Alone,
   * the runner may die once more before the job is blamed; any other failure is its own. A runner
   * that cannot be kept alive is nobody's fault. A task that was lost on its way through the stages
   * is run again, as often as the devices are found whole; they bound how often that can be.
   */
  #taskFailed(task: Task, error: ErrorRecord): DriverEffect[] {
    const members = this.#landed(task);
    const hadMates = task.kind === "step" && task.rows.length > 1;
    return members.flatMap(({ job }) => {
      if (job.encoding === "running") job.encoding = "waiting";
      if (error.reason === "STAGE_LOST") return [];
      const blamed = error.reason !== "RUNNER_BROKEN";
      const died = error.reason === "RUNNER_DIED";
      if (blamed && hadMates) {
        job.suspect ||= died;
        job.alone ||= !died;
        return [];
      }
      if (died) {
        job.deathsAlone += 1;
        if (job.deathsAlone < DEATHS_ALONE_MAX) return [];
      }
      return this.#end(job.id, { kind: "failed", id: job.id, error, blamed });
    });
  }

  #stored(id: string, unitIndex: number): DriverEffect[] {
    const job = this.#jobs.get(id);
    if (job === undefined) return [];
    unitOf(job, unitIndex).phase = "stored";
    return [];
  }

  #storeFailed(id: string, unitIndex: number, error: ErrorRecord): DriverEffect[] {
    const job = this.#jobs.get(id);
    if (job === undefined) return [];
    unitOf(job, unitIndex).phase = "decoding";
    return this.#end(id, { kind: "failed", id, error, blamed: false });
  }

  /** The jobs and units of a task that has come back. */
  #landed(task: Task): { job: DriverJob; units: ResidentUnit[] }[] {
    this.#inFlight -= 1;
    assert(this.#inFlight >= 0, "a task came back that was not in flight");
    const members = this.#members(task);
    for (const { units } of members) for (const unit of units) unit.inFlight = false;
    return members;
  }

  #members(task: Task): { job: DriverJob; units: ResidentUnit[] }[] {
    const rows: readonly Row[] = task.kind === "step" ? task.rows : [];
    const ids = task.kind === "step" ? new Set(rows.map((row) => row.id)) : [task.id];
    return [...ids].map((id) => {
      const job = this.#jobs.get(id);
      assert(job !== undefined, `a task speaks of ${id}, which is not resident`);
      if (task.kind === "decode") return { job, units: [unitOf(job, task.unit)] };
      const own = rows.filter((row) => row.id === id);
      return { job, units: own.map((row) => unitOf(job, row.unit)) };
    });
  }
}

function isBusy(unit: ResidentUnit): boolean {
  return unit.inFlight || unit.phase === "storing";
}

function unitOf(job: DriverJob, index: number): ResidentUnit {
  const unit = job.units.find((candidate) => candidate.index === index);
  assert(unit !== undefined, `${job.id} has no unit ${index}`);
  return unit;
}

function stepCount(job: DriverJob): { stepsDone: number; stepsTotal: number } {
  const stepsDone = job.units.reduce((sum, unit) => sum + unit.step, 0);
  return { stepsDone, stepsTotal: job.steps * job.units.length };
}

function progress(job: DriverJob, phase: ProgressPhase): DriverEffect {
  return { kind: "progress", id: job.id, phase, ...stepCount(job) };
}

function notFiniteError(step: number, unit: number): AppError {
  const what = `image ${unit} stopped being finite numbers at step ${step}`;
  return new AppError("data_loss", `${what}; another seed, guidance or size may do`, {
    reason: "LATENTS_NOT_FINITE",
    retryable: false,
  });
}
