/**
 * The driver of one replica group: which requests are resident, what the device does next, and
 * what is reported when. Synchronous and without I/O: `step(input, nowMs) -> effects`. Adapters run
 * the tasks, store the images, and bring the outcomes back as inputs.
 *
 *   assigned -> encode -> step .. step (boundary 0 .. n) -> decode -> store -> finished
 *                 a revoke, a drain or a failure ends it at the next boundary
 *
 * Invariants: a unit is in at most one task, and no more tasks are in flight than the limits say;
 * whatever was assigned is finished, failed or released exactly once; one row's end never touches
 * its mates. A step of the driver looks at the jobs that its input concerns, never at all of them.
 */
import { assert, unreachable } from "@fluxline/kernel/assert.ts";
import { AppError, type ErrorRecord, toErrorRecord } from "@fluxline/kernel/error.ts";
import { OUT_OF_MEMORY } from "./out-of-memory.ts";
import {
  type BatchLimits,
  type Landing,
  type Resident,
  type ResidentUnit,
  type Row,
  StepBatcher,
  type Task,
} from "./step-batcher.ts";
import { StepCostTable } from "./step-cost.ts";
import { lateMoment, patientMoment, type ServiceTerms } from "./turn.ts";

/** A job's own runner deaths, alone on the device, after which it is blamed. */
const DEATHS_ALONE_MAX = 2;

export interface DriverLimits extends BatchLimits {
  /** Image units resident at a time. A job with more fills the group. */
  readonly residentsMax: number;
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
  /** Rows of its shape that the devices have memory for in one step; absent: nobody has said. */
  readonly rowsMax?: number;
  /** Its previews need a probe of the decoder. */
  readonly needsProbe?: boolean;
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
  /** A step of several rows failed: they go on from where they were, in smaller batches. */
  | {
      readonly kind: "batch-failed";
      readonly shapeKey: string;
      readonly rows: number;
      readonly error: ErrorRecord;
    }
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
  /** In a row, with nothing else in flight. */
  deathsAlone: number;
  /** How it ends, decided while a task of it was in flight or being stored. */
  ending: DriverEffect | undefined;
}

export class Driver {
  readonly stepCosts = new StepCostTable();
  readonly #limits: DriverLimits;
  readonly #batcher: StepBatcher;
  /** In order of arrival. */
  readonly #jobs = new Map<string, DriverJob>();
  /** Jobs that the input concerns. */
  readonly #touched = new Set<DriverJob>();
  /** Image units of all residents. */
  #load = 0;
  #draining = false;
  #devices: DevicesState = "whole";

  constructor(limits: DriverLimits) {
    this.#limits = limits;
    this.#batcher = new StepBatcher(limits, this.stepCosts);
  }

  /** Whether a job of so many units could be assigned now; `assigned` asserts it. */
  admission(id: string, units: number): Admission {
    if (this.#jobs.has(id)) return "resident";
    if (this.#draining) return "draining";
    if (this.#devices === "away") return "full";
    return this.#load > 0 && this.#load + units > this.#limits.residentsMax ? "full" : "accepted";
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Steps done and in all, per resident, in order of arrival. */
  residents(): { id: string; stepsDone: number; stepsTotal: number }[] {
    return [...this.#jobs.values()].map((job) => ({ id: job.id, ...stepCount(job) }));
  }

  step(input: DriverInput, nowMs: number): DriverEffect[] {
    const effects = this.#apply(input, nowMs);
    for (const job of this.#touched) effects.push(...this.#settle(job, nowMs));
    this.#touched.clear();
    while (this.#devices === "whole") {
      const task = this.#batcher.next(nowMs);
      if (task === undefined) break;
      effects.push(...this.#begun(task));
    }
    if (this.#draining && this.#jobs.size === 0) effects.push({ kind: "drained" });
    return effects;
  }

  #apply(input: DriverInput, nowMs: number): DriverEffect[] {
    switch (input.kind) {
      case "assigned":
        return this.#assign(input.job, nowMs);
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
        return this.#taskDone(input.task, input.notFinite ?? [], input.seconds);
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

  #assign(facts: JobFacts, nowMs: number): DriverEffect[] {
    const admission = this.admission(facts.id, facts.units.length);
    assert(admission === "accepted", `assigned ${facts.id}: ${admission}`);
    assert(facts.units.length > 0, `assigned ${facts.id} without units`);
    const units = facts.units.map(({ index, step }): ResidentUnit => {
      assert(step >= 0 && step <= facts.steps, `${facts.id}: step ${step} of ${facts.steps}`);
      const phase = step === facts.steps ? "decoding" : "denoising";
      return { index, step, phase, inFlight: false, suspect: false };
    });
    const job: DriverJob = {
      ...facts,
      units,
      patientMs: patientMoment(facts, nowMs),
      lateMs: lateMoment(facts, nowMs),
      encoding: "waiting",
      probe: facts.needsProbe === true ? "waiting" : "done",
      encodingSuspect: false,
      stopping: false,
      started: false,
      deathsAlone: 0,
      ending: undefined,
    };
    this.#jobs.set(job.id, job);
    this.#load += units.length;
    this.#batcher.enter(job);
    this.#touched.add(job);
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
    this.#touched.add(job);
    return [];
  }

  /** Lets a job go that has stopped and has nothing in flight, or has all its images stored. */
  #settle(job: DriverJob, nowMs: number): DriverEffect[] {
    const preparing = job.encoding === "running" || job.probe === "running";
    const busy = preparing || job.units.some(isBusy);
    const complete = !busy && job.units.every((unit) => unit.phase === "stored");
    if (busy || (!complete && job.ending === undefined)) {
      this.#batcher.update(job, nowMs);
      return [];
    }
    this.#batcher.leave(job);
    this.#jobs.delete(job.id);
    this.#load -= job.units.length;
    return [complete ? { kind: "finished", id: job.id } : job.ending!];
  }

  #begun(task: Task): DriverEffect[] {
    const effects: DriverEffect[] = [];
    for (const { job } of this.#members(task)) {
      if (!job.started) effects.push({ kind: "started", id: job.id });
      job.started = true;
      if (task.kind === "encode") effects.push(progress(job, "encoding"));
      if (task.kind === "decode") effects.push(progress(job, "decoding"));
    }
    effects.push({ kind: "run", task });
    return effects;
  }

  #taskDone(task: Task, notFinite: readonly Row[], seconds: number | undefined): DriverEffect[] {
    const { landing, members } = this.#landed(task);
    if (task.kind === "step" && seconds !== undefined) {
      this.stepCosts.observe(task.shapeKey, landing.rows, seconds);
    }
    const effects: DriverEffect[] = [];
    for (const { job, units } of members) {
      if (landing.exclusive) acquit(job, task, units);
      if (task.kind === "encode") job.encoding = "done";
      if (task.kind === "probe") job.probe = "done";
      if (task.kind === "step") effects.push(...this.#stepped(job, units, notFinite));
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
    return [progress(job, "denoising")];
  }

  /**
   * A runner that dies while several rows or tasks are under way: nobody knows whose fault it was,
   * so each runs with nothing else in flight until it has succeeded, and a second death in a row
   * by itself is its own. A batch that the device had no memory for is nobody's fault: its rows go
   * on from where they were, in smaller batches. A batch that fails otherwise is not formed again:
   * its jobs go on by themselves for good. By itself, such a failure is the job's own. A stage that
   * is lost, a runner that cannot be kept alive, or a graph that does not load any more, is nobody's
   * fault.
   */
  #taskFailed(task: Task, error: ErrorRecord): DriverEffect[] {
    const { landing, members } = this.#landed(task);
    const hadMates = task.kind === "step" && task.rows.length > 1;
    const fault = faultOf(error, hadMates);
    if (task.kind === "step" && hadMates) {
      const costs = this.stepCosts.shape(task.shapeKey);
      if (fault === "batch" || fault === "size") costs.failed(landing.rows);
      if (fault === "unknown") costs.died(landing.rows);
    }
    const effects = members.flatMap(({ job, units }): DriverEffect[] => {
      if (task.kind === "encode") job.encoding = "waiting";
      if (task.kind === "probe") job.probe = "waiting";
      const failed = (blamed: boolean): DriverEffect[] =>
        this.#end(job.id, { kind: "failed", id: job.id, error, blamed });
      switch (fault) {
        case "nobody":
        case "size":
          return [];
        case "group":
          return failed(false);
        case "batch":
          job.alone = true;
          return [];
        case "job":
          return failed(true);
        case "unknown":
          suspect(job, task, units);
          if (hadMates || !landing.exclusive) return [];
          job.deathsAlone += 1;
          return job.deathsAlone < DEATHS_ALONE_MAX ? [] : failed(true);
        default:
          return unreachable(fault, "fault");
      }
    });
    if (task.kind !== "step" || (fault !== "batch" && fault !== "size")) return effects;
    return [
      { kind: "batch-failed", shapeKey: task.shapeKey, rows: landing.rows, error },
      ...effects,
    ];
  }

  #stored(id: string, unitIndex: number): DriverEffect[] {
    const job = this.#jobs.get(id);
    if (job === undefined) return [];
    unitOf(job, unitIndex).phase = "stored";
    this.#touched.add(job);
    return [];
  }

  #storeFailed(id: string, unitIndex: number, error: ErrorRecord): DriverEffect[] {
    const job = this.#jobs.get(id);
    if (job === undefined) return [];
    unitOf(job, unitIndex).phase = "decoding";
    return this.#end(id, { kind: "failed", id, error, blamed: false });
  }

  #landed(task: Task): { landing: Landing; members: Member[] } {
    const landing = this.#batcher.landed(task);
    const members = this.#members(task);
    for (const { job } of members) this.#touched.add(job);
    return { landing, members };
  }

  /** The jobs of a task, each with its units that are in it. */
  #members(task: Task): Member[] {
    if (task.kind !== "step") {
      const job = this.#job(task.id);
      return [{ job, units: task.kind === "decode" ? [unitOf(job, task.unit)] : [] }];
    }
    const members = new Map<string, { job: DriverJob; units: ResidentUnit[] }>();
    for (const { id, unit } of task.rows) {
      const member = members.get(id) ?? { job: this.#job(id), units: [] };
      members.set(id, member);
      member.units.push(unitOf(member.job, unit));
    }
    return [...members.values()];
  }

  #job(id: string): DriverJob {
    const job = this.#jobs.get(id);
    assert(job !== undefined, `a task speaks of ${id}, which is not resident`);
    return job;
  }
}

interface Member {
  readonly job: DriverJob;
  readonly units: readonly ResidentUnit[];
}

/** `size`: of the batch, whoever is in it; `batch`: of its members together. */
type Fault = "nobody" | "group" | "size" | "batch" | "job" | "unknown";

function faultOf({ reason, retryable }: ErrorRecord, hadMates: boolean): Fault {
  if (reason === "STAGE_LOST") return "nobody";
  if (reason === "RUNNER_BROKEN") return "group";
  // A graph that is loaded for each use could not be: no request has asked for anything wrong.
  if (reason === "GRAPH_NOT_LOADED" || (reason === OUT_OF_MEMORY && retryable)) return "group";
  if (reason === "RUNNER_DIED") return "unknown";
  if (!hadMates) return "job";
  return reason === OUT_OF_MEMORY ? "size" : "batch";
}

function suspect(job: DriverJob, task: Task, units: readonly ResidentUnit[]): void {
  if (isPreparation(task)) job.encodingSuspect = true;
  for (const unit of units) unit.suspect = true;
}

/** It lives: whoever killed the runner, it was not this. */
function acquit(job: DriverJob, task: Task, units: readonly ResidentUnit[]): void {
  job.deathsAlone = 0;
  if (isPreparation(task)) job.encodingSuspect = false;
  for (const unit of units) unit.suspect = false;
}

function isPreparation({ kind }: Task): boolean {
  return kind === "encode" || kind === "probe";
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
  const wayOut =
    "another seed, guidance or size may do; if every request ends so, check the weights";
  return new AppError("data_loss", `${what}; ${wayOut}`, {
    reason: "LATENTS_NOT_FINITE",
    retryable: false,
  });
}
