/**
 * Chooses what the devices do next. Pure: told what is resident and what has come back, it gives
 * one task after another, at a cost that hardly depends on how much is resident.
 *
 * A batch is formed anew for every step. The row whose turn it is leads (turn.ts: share between
 * tenants; class, deadline and arrival within one), and rows of its shape join in the same order
 * until the batch has the size that measured costs call for (batch-size.ts). Steps, guidance, seed
 * and tenant differ from row to row. Text encodings and decodes have lanes of their own
 * (device-lanes.ts), in the same order of turns.
 *
 * Suspects, under which a runner died, go first, each with nothing else in flight: if it dies
 * again, we know whose fault it is; if not, they share batches again.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { chooseSize } from "./batch-size.ts";
import { DeviceLanes, type LaneKind } from "./device-lanes.ts";
import { NO_PLACE } from "./keyed-heap.ts";
import type { StepCostTable } from "./step-cost.ts";
import { type TenantAccount, TenantClock } from "./tenant-clock.ts";
import { isAhead, type ServiceTerms, type Turn } from "./turn.ts";
import { TurnIndex } from "./turn-index.ts";

export type UnitPhase = "denoising" | "decoding" | "storing" | "stored";

/** One image of a request, as the batcher sees it. */
export interface ResidentUnit {
  readonly index: number;
  step: number;
  phase: UnitPhase;
  inFlight: boolean;
  /** A runner died under it: it runs by itself until it has succeeded. */
  suspect: boolean;
}

export interface Resident extends ServiceTerms {
  readonly id: string;
  readonly shapeKey: string;
  readonly steps: number;
  /** Rows that one unit takes in a batch: 2 with true classifier-free guidance. */
  readonly passes: number;
  /** Rows of its shape that the devices have memory for in one step; absent: nobody has said. */
  readonly rowsMax?: number;
  /** In order of their index. */
  readonly units: readonly ResidentUnit[];
  encoding: "waiting" | "running" | "done";
  /** One small decode, which its previews need; nothing waits for it. */
  probe: "waiting" | "running" | "done";
  /** A runner died under its text encoding or its probe. */
  encodingSuspect: boolean;
  /** Shares its batches with nobody, for as long as it is here. */
  alone: boolean;
  /** Ends at the next boundary: no further task may begin for it. */
  stopping: boolean;
  /** Its arrival plus the patience of its class. */
  readonly patientMs: number;
  /** The same once its deadline cannot be met. */
  readonly lateMs: number;
}

export interface Row {
  readonly id: string;
  readonly unit: number;
}

export type Task =
  | { readonly kind: "encode"; readonly id: string }
  | { readonly kind: "probe"; readonly id: string }
  | { readonly kind: "step"; readonly shapeKey: string; readonly rows: readonly Row[] }
  | { readonly kind: "decode"; readonly id: string; readonly unit: number };

/** Indexes of devices: 0 .. stages - 1 are the stages, higher ones hold no part of the denoiser. */
export interface DevicePlan {
  /** Those that every step passes, in order. */
  readonly step: readonly number[];
  /** Those that a text encoding uses. */
  readonly encode: readonly number[];
  /** Those that a decode uses. */
  readonly decode: readonly number[];
}

/** One device that does everything. */
export const ONE_DEVICE: DevicePlan = { step: [0], encode: [0], decode: [0] };

/** How a batch's size is chosen: by measured cost, or as full as can be. */
export type Batching = "measured" | "full";

export interface BatchLimits {
  /** Rows of one micro-batch, passes counted. */
  readonly rowsMax: number;
  readonly batching: Batching;
  /** Step tasks in flight: about one per pipeline stage. */
  readonly stepsInFlightMax: number;
  readonly devices: DevicePlan;
}

/** What became known of a task when it came back. */
export interface Landing {
  /** Rows of its batch, passes counted; 1 for every other task. */
  readonly rows: number;
  /** Nothing else was in flight while it was: its death or success is its own. */
  readonly exclusive: boolean;
}

/** Work that waits: a job's encoding or probe, or a step or the decode of one of its images. */
interface Work extends Turn {
  readonly kind: Task["kind"];
  readonly entry: Entry;
  readonly index: TurnIndex<Work>;
  readonly group: string;
}

/** A resident with what of it waits and what counts. */
interface Entry {
  readonly job: Resident;
  readonly account: TenantAccount;
  readonly sequence: number;
  readonly waiting: Set<Work>;
  /** Images that wait for a step or are in one. */
  readonly stepping: Set<number>;
}

interface Flight {
  readonly rows: number;
  readonly units: readonly ResidentUnit[];
  exclusive: boolean;
}

const PASSES = [1, 2];

/** Time for a request's decode, and for what stands before it, reckoned in its steps. */
export const STEPS_FOR_THE_END = 1;

/** Where an encoding or a probe stands among the images of its job. */
const BEFORE_IMAGES = -1;

/** In this order where nothing else decides. */
const LANE_TASKS = ["encode", "decode", "probe"] as const;

/** A probe is a decode to the devices. */
function laneOf(kind: Exclude<Task["kind"], "step">): LaneKind {
  return kind === "encode" ? "encode" : "decode";
}

/** Where work that is not told apart by shape stands. */
const ONLY_GROUP = "";

export class StepBatcher {
  readonly #limits: BatchLimits;
  readonly #costs: StepCostTable;
  readonly #clock: TenantClock;
  readonly #lanes: DeviceLanes;
  readonly #waiting: Readonly<Record<Task["kind"], TurnIndex<Work>>>;
  readonly #suspects: TurnIndex<Work>;
  readonly #entries = new Map<string, Entry>();
  readonly #flights = new Map<Task, Flight>();
  /** A suspect's task in flight: nothing else begins. */
  #suspectTask: Task | undefined;
  #nextSequence = 0;
  #stepsInFlight = 0;
  /** Of all shapes, waiting for a step or in one, passes counted. */
  #rowsHere = 0;

  constructor(limits: BatchLimits, costs: StepCostTable) {
    assert(limits.rowsMax >= 1, `batches of ${limits.rowsMax} rows`);
    assert(limits.stepsInFlightMax >= 1, `${limits.stepsInFlightMax} steps in flight`);
    this.#limits = limits;
    this.#costs = costs;
    this.#clock = new TenantClock(limits.rowsMax);
    this.#lanes = new DeviceLanes(limits.devices);
    const index = () => new TurnIndex<Work>(this.#clock);
    this.#waiting = { encode: index(), probe: index(), step: index(), decode: index() };
    this.#suspects = index();
  }

  get tasksInFlight(): number {
    return this.#flights.size;
  }

  /** A job becomes resident; `update` says what of it waits. */
  enter(job: Resident): void {
    assert(!this.#entries.has(job.id), `${job.id} enters twice`);
    assert(job.share > 0, `${job.id} has share ${job.share}`);
    assert(job.passes === 1 || job.passes === 2, `${job.id} has ${job.passes} passes`);
    const account = this.#clock.enter(job.tenant);
    const sequence = this.#nextSequence++;
    const entry = { job, account, sequence, waiting: new Set<Work>(), stepping: new Set<number>() };
    this.#entries.set(job.id, entry);
  }

  /** A job goes that has nothing in flight. */
  leave(job: Resident): void {
    const entry = this.#entry(job.id);
    this.#withdraw(entry);
    for (const unit of entry.stepping) this.#stepping(entry, unit, false);
    this.#clock.leave(entry.account);
    this.#entries.delete(job.id);
  }

  /** Something about the job has changed: what of it waits is reckoned anew. */
  update(job: Resident, nowMs: number): void {
    const entry = this.#entry(job.id);
    this.#withdraw(entry);
    const goesOn = !job.stopping;
    for (const unit of job.units) {
      const denoising = unit.phase === "denoising";
      const stepReady = goesOn && denoising && !unit.inFlight && job.encoding === "done";
      this.#stepping(entry, unit.index, stepReady || (denoising && unit.inFlight));
      if (stepReady) this.#wait(entry, "step", unit, nowMs);
      const decodeReady = goesOn && unit.phase === "decoding" && !unit.inFlight;
      if (decodeReady) this.#wait(entry, "decode", unit, nowMs);
    }
    const encodeReady = goesOn && job.encoding === "waiting";
    if (encodeReady && job.units.some(({ phase }) => phase === "denoising")) {
      this.#wait(entry, "encode", undefined, nowMs);
    }
    const previewsFollow = job.units.some(({ phase }) => phase === "denoising");
    if (goesOn && previewsFollow && job.probe === "waiting" && job.encoding === "done") {
      this.#wait(entry, "probe", undefined, nowMs);
    }
  }

  /** The next task, which is in flight from now on; undefined while nothing can begin. */
  next(nowMs: number): Task | undefined {
    if (this.#suspectTask !== undefined) return undefined;
    if (this.#suspects.size > 0) return this.#nextSuspect(nowMs);
    return this.#nextLane(nowMs) ?? this.#nextStep(nowMs);
  }

  /** A task has come back, done or failed. Each of its jobs is to be updated. */
  landed(task: Task): Landing {
    const flight = this.#flights.get(task);
    assert(flight !== undefined, `a ${task.kind} task came back that was not in flight`);
    this.#flights.delete(task);
    if (this.#suspectTask === task) this.#suspectTask = undefined;
    if (task.kind === "step") this.#stepsInFlight -= 1;
    else this.#lanes.ends(laneOf(task.kind));
    for (const unit of flight.units) unit.inFlight = false;
    return { rows: flight.rows, exclusive: flight.exclusive };
  }

  // --- what waits --------------------------------------------------------------------------------

  #withdraw(entry: Entry): void {
    for (const work of entry.waiting) work.index.delete(work, work.group);
    entry.waiting.clear();
  }

  #wait(entry: Entry, kind: Task["kind"], unit: ResidentUnit | undefined, nowMs: number): void {
    const { job, account, sequence } = entry;
    const suspect = unit?.suspect ?? job.encodingSuspect;
    const steps = unit === undefined ? job.steps : job.steps - unit.step;
    const { patientMs, lateMs, deadlineMs = Infinity } = job;
    const latestStartMs = deadlineMs - this.#remainingMs(job, steps);
    const work: Work = {
      kind,
      entry,
      account,
      sequence,
      unit: unit?.index ?? BEFORE_IMAGES,
      momentMs: latestStartMs < nowMs ? lateMs : Math.min(patientMs, deadlineMs),
      latestStartMs,
      lateMs,
      place: NO_PLACE,
      index: suspect ? this.#suspects : this.#waiting[kind],
      group: kind === "step" && !suspect ? groupOf(job) : ONLY_GROUP,
    };
    entry.waiting.add(work);
    work.index.add(work, work.group);
  }

  /** Each step passes all stages; unknown costs count for nothing. */
  #remainingMs(job: Resident, steps: number): number {
    if (job.deadlineMs === undefined) return 0;
    const rowSeconds = this.#costs.rowSeconds(job.shapeKey) ?? 0;
    return steps * job.passes * rowSeconds * this.#limits.devices.step.length * 1000;
  }

  #stepping(entry: Entry, unit: number, is: boolean): void {
    if (entry.stepping.has(unit) === is) return;
    this.#rowsHere += is ? entry.job.passes : -entry.job.passes;
    if (is) {
      entry.stepping.add(unit);
      this.#clock.rowBegins(entry.account);
    } else {
      entry.stepping.delete(unit);
      this.#clock.rowEnds(entry.account);
    }
  }

  // --- what runs next ----------------------------------------------------------------------------

  #nextSuspect(nowMs: number): Task | undefined {
    if (this.#flights.size > 0) return undefined;
    const work = this.#suspects.first(nowMs)!;
    this.#suspectTask = this.#begin([this.#take(work)]);
    return this.#suspectTask;
  }

  #nextLane(nowMs: number): Task | undefined {
    const stepIsReady = this.#waiting.step.size > 0;
    let chosen: Work | undefined;
    for (const kind of LANE_TASKS) {
      if (!this.#lanes.isFree(laneOf(kind), stepIsReady)) continue;
      const first = this.#waiting[kind].first(nowMs);
      if (first && (!chosen || isAhead(first, chosen, this.#clock))) chosen = first;
    }
    return chosen && this.#begin([this.#take(chosen)]);
  }

  #nextStep(nowMs: number): Task | undefined {
    const { stepsInFlightMax, devices } = this.#limits;
    if (this.#stepsInFlight >= stepsInFlightMax) return undefined;
    // One step at a time on one device: it is formed when the device can take it, with whoever has
    // come by then. Where steps are to queue up, they do.
    const oneByOne = devices.step.length === 1 && stepsInFlightMax === 1;
    if (oneByOne && this.#lanes.holdsSteps) return undefined;
    const leader = this.#waiting.step.first(nowMs);
    if (leader === undefined) return undefined;
    const { job } = leader.entry;
    this.#clock.leads(leader.account);
    let places = (job.alone ? job.passes : this.#size(leader, nowMs)) - job.passes;
    const batch = [this.#take(leader)];
    while (places > 0) {
      const mate = this.#nextMate(job.shapeKey, places, nowMs);
      if (mate === undefined) break;
      batch.push(this.#take(mate));
      places -= mate.entry.job.passes;
    }
    return this.#begin(batch);
  }

  /** Rows of the leader's batch. A unit whose passes exceed the limit still runs, by itself. */
  #size(work: Work, nowMs: number): number {
    const leader = work.entry.job;
    const { rowsMax, batching, devices } = this.#limits;
    const { step } = this.#waiting;
    const [single, double] = PASSES.map((passes) => groupOf({ ...leader, passes, alone: false }));
    const ready = step.sizeOf(single!) + 2 * step.sizeOf(double!);
    const least = leader.passes;
    const most = Math.max(least, Math.min(rowsMax, leader.rowsMax ?? Infinity, ready));
    const costs = this.#costs.shape(leader.shapeKey);
    if (batching === "full") return Math.max(least, Math.min(most, costs.rowsMax));
    const stages = Math.min(devices.step.length, this.#limits.stepsInFlightMax);
    const secondsMax = this.#secondsMax(work, nowMs);
    const rowsHere = this.#rowsHere;
    const { rows, isTrial } = chooseSize(costs, { least, most, rowsHere, stages, secondsMax });
    if (isTrial) costs.tried(rows);
    return rows;
  }

  /** What a step of the leader may take if all that it has left are to end by its deadline. */
  #secondsMax(work: Work, nowMs: number): number {
    const { job } = work.entry;
    if (job.deadlineMs === undefined || work.latestStartMs < nowMs) return Infinity;
    const passed = job.steps - this.#unit(work).step + STEPS_FOR_THE_END;
    return (job.deadlineMs - nowMs) / 1000 / passed / this.#limits.devices.step.length;
  }

  #nextMate(shapeKey: string, places: number, nowMs: number): Work | undefined {
    let next: Work | undefined;
    for (const passes of PASSES) {
      if (passes > places) continue;
      const group = groupOf({ shapeKey, passes, alone: false, id: "" });
      const first = this.#waiting.step.firstOf(group, nowMs);
      if (first && (!next || isAhead(first, next, this.#clock))) next = first;
    }
    return next;
  }

  /** It waits no more; a step is charged. */
  #take(work: Work): Work {
    const { entry, index, group, account } = work;
    index.delete(work, group);
    entry.waiting.delete(work);
    if (work.kind !== "step") return work;
    const { passes, shapeKey, share } = entry.job;
    this.#clock.charge(account, passes * this.#costs.chargeSeconds(shapeKey), share);
    return work;
  }

  #begin(works: readonly Work[]): Task {
    const [{ kind, entry, unit }] = works as readonly [Work];
    const { id, shapeKey } = entry.job;
    const rows = works.map((work) => ({ id: work.entry.job.id, unit: work.unit }));
    const task: Task =
      kind === "step"
        ? { kind, shapeKey, rows }
        : kind === "decode"
          ? { kind, id, unit }
          : { kind, id };
    if (kind === "step") {
      this.#stepsInFlight += 1;
      this.#lanes.stepBegins();
    } else this.#lanes.begins(laneOf(kind));
    const ofImages = kind === "step" || kind === "decode";
    const units = ofImages ? works.map((work) => this.#unit(work)) : [];
    if (kind === "encode") entry.job.encoding = "running";
    if (kind === "probe") entry.job.probe = "running";
    for (const each of units) {
      assert(!each.inFlight, `image ${each.index} of ${id} is in two tasks`);
      each.inFlight = true;
    }
    for (const flight of this.#flights.values()) flight.exclusive = false;
    const passes = works.reduce((sum, work) => sum + work.entry.job.passes, 0);
    const exclusive = this.#flights.size === 0;
    this.#flights.set(task, { rows: kind === "step" ? passes : 1, units, exclusive });
    return task;
  }

  #unit({ entry: { job }, unit }: Work): ResidentUnit {
    const found = job.units.find(({ index }) => index === unit);
    assert(found !== undefined, `${job.id} has no image ${unit}`);
    return found;
  }

  #entry(id: string): Entry {
    const entry = this.#entries.get(id);
    assert(entry !== undefined, `${id} is not resident`);
    return entry;
  }
}

/** Rows that can share a batch; told apart by their passes, so that none is looked at in vain. */
function groupOf(job: Pick<Resident, "id" | "shapeKey" | "passes" | "alone">): string {
  return job.alone ? `alone ${job.id}` : `${job.passes} ${job.shapeKey}`;
}
