/**
 * The batcher's policy once more, for tests: it keeps no index and looks at everything each time.
 * What it says, the StepBatcher must say.
 */
import { chooseSize } from "./batch-size.ts";
import {
  type BatchLimits,
  type Resident,
  type ResidentUnit,
  STEPS_FOR_THE_END,
  type Task,
} from "./step-batcher.ts";
import type { StepCostTable } from "./step-cost.ts";

interface Candidate {
  readonly kind: Task["kind"];
  readonly job: Resident;
  readonly unit: ResidentUnit | undefined;
  readonly latestStartMs: number;
  readonly suspect: boolean;
}

interface Known {
  readonly job: Resident;
  readonly sequence: number;
  candidates: Candidate[];
  /** Images that wait for a step or are in one. */
  rows: number;
}

const LANES = ["encode", "decode", "probe"];

export class ReferenceBatcher {
  readonly #limits: BatchLimits;
  readonly #costs: StepCostTable;
  #known: Known[] = [];
  #flights: { task: Task; exclusive: boolean; suspect: boolean; units: ResidentUnit[] }[] = [];
  readonly #tags = new Map<string, number>();
  #tenants: string[] = [];
  #virtual = 0;
  #arrivals = 0;
  #stepDue = new Set<number>();

  constructor(limits: BatchLimits, costs: StepCostTable) {
    this.#limits = limits;
    this.#costs = costs;
  }

  enter(job: Resident): void {
    if (!this.#tenants.includes(job.tenant)) {
      this.#tenants.push(job.tenant);
      this.#tags.set(job.tenant, this.#virtual);
    }
    this.#known.push({ job, sequence: this.#arrivals++, candidates: [], rows: 0 });
  }

  leave(job: Resident): void {
    this.#setRows(this.#of(job), 0);
    this.#known = this.#known.filter((known) => known.job !== job);
    this.#forgetTenants();
  }

  update(job: Resident, _nowMs: number): void {
    const known = this.#of(job);
    const { units, encoding, probe, stopping } = job;
    known.candidates = [];
    const denoising = units.filter(({ phase }) => phase === "denoising");
    const waits = (kind: Task["kind"], unit?: ResidentUnit): void => {
      const suspect = unit?.suspect ?? job.encodingSuspect;
      known.candidates.push({
        kind,
        job,
        unit,
        latestStartMs: this.#latestStart(job, unit),
        suspect,
      });
    };
    const counted = denoising.filter((unit) => unit.inFlight || (!stopping && encoding === "done"));
    this.#setRows(known, counted.length);
    if (stopping) return;
    for (const unit of units.filter(({ inFlight }) => !inFlight)) {
      if (unit.phase === "denoising" && encoding === "done") waits("step", unit);
      if (unit.phase === "decoding") waits("decode", unit);
    }
    if (denoising.length > 0 && encoding === "waiting") waits("encode");
    if (denoising.length > 0 && encoding === "done" && probe === "waiting") waits("probe");
  }

  next(nowMs: number): Task | undefined {
    const all = this.#known.flatMap(({ candidates }) => candidates);
    if (this.#flights.some(({ suspect }) => suspect)) return undefined;
    const suspects = all.filter(({ suspect }) => suspect);
    if (suspects.length > 0) {
      return this.#flights.length > 0 ? undefined : this.#begin(this.#sorted(suspects, nowMs, 1));
    }
    const lane = all.filter(({ kind }) => LANES.includes(kind) && this.#laneIsFree(kind, all));
    if (lane.length > 0) return this.#begin(this.#sorted(lane, nowMs, 1));
    const { stepsInFlightMax, devices } = this.#limits;
    const steps = all.filter(({ kind }) => kind === "step");
    const running = this.#flights.filter(({ task }) => task.kind === "step").length;
    if (steps.length === 0 || running >= stepsInFlightMax) return undefined;
    const held = devices.step.some((device) => this.#isBusy(device));
    if (devices.step.length === 1 && stepsInFlightMax === 1 && held) return undefined;
    return this.#begin(this.#batch(steps, nowMs));
  }

  landed(task: Task): void {
    const flight = this.#flights.find((each) => each.task === task)!;
    this.#flights = this.#flights.filter((each) => each !== flight);
    for (const unit of flight.units) unit.inFlight = false;
  }

  // --- batches -----------------------------------------------------------------------------------

  #batch(steps: readonly Candidate[], nowMs: number): Candidate[] {
    const leader = this.#sorted(steps, nowMs, 1)[0]!;
    const { shapeKey, passes, alone } = leader.job;
    this.#virtual = Math.max(this.#virtual, this.#tag(leader.job.tenant));
    this.#forgetTenants();
    const shape = steps.filter(({ job }) => job.shapeKey === shapeKey && !job.alone);
    let places = (alone ? passes : this.#size(leader, shape, nowMs)) - passes;
    const batch = [leader];
    this.#charge(leader.job);
    while (places > 0) {
      const fitting = shape.filter((each) => !batch.includes(each) && each.job.passes <= places);
      if (fitting.length === 0) break;
      const mate = this.#sorted(fitting, nowMs, 1)[0]!;
      batch.push(mate);
      this.#charge(mate.job);
      places -= mate.job.passes;
    }
    return batch;
  }

  #size(first: Candidate, shape: readonly Candidate[], nowMs: number): number {
    const leader = first.job;
    const { rowsMax, batching, devices, stepsInFlightMax } = this.#limits;
    const ready = shape.reduce((sum, { job }) => sum + job.passes, 0);
    const least = leader.passes;
    const most = Math.max(least, Math.min(rowsMax, leader.rowsMax ?? Infinity, ready));
    const costs = this.#costs.shape(leader.shapeKey);
    if (batching === "full") return Math.max(least, Math.min(most, costs.rowsMax));
    const rowsHere = this.#known.reduce((sum, { job, rows }) => sum + job.passes * rows, 0);
    const stages = Math.min(devices.step.length, stepsInFlightMax);
    const left = (leader.deadlineMs ?? Infinity) - nowMs;
    const passed = leader.steps - first.unit!.step + STEPS_FOR_THE_END;
    const late = first.latestStartMs < nowMs;
    const secondsMax = late ? Infinity : left / 1000 / passed / devices.step.length;
    const { rows, isTrial } = chooseSize(costs, { least, most, rowsHere, stages, secondsMax });
    if (isTrial) costs.tried(rows);
    return rows;
  }

  #begin(chosen: readonly Candidate[]): Task {
    const [{ kind, job, unit, suspect }] = chosen as readonly [Candidate];
    const { devices } = this.#limits;
    if (kind === "step" && suspect) this.#charge(job);
    if (kind === "encode") job.encoding = "running";
    if (kind === "probe") job.probe = "running";
    const units = chosen.flatMap((each) => (each.unit === undefined ? [] : [each.unit]));
    for (const each of units) each.inFlight = true;
    for (const { job: owner } of chosen) {
      const known = this.#of(owner);
      known.candidates = known.candidates.filter((candidate) => !chosen.includes(candidate));
    }
    if (kind === "step") this.#stepDue.clear();
    else {
      const used = devices[kind === "encode" ? "encode" : "decode"];
      for (const each of used) if (devices.step.includes(each)) this.#stepDue.add(each);
    }
    const { id, shapeKey } = job;
    const rows = chosen.map((each) => ({ id: each.job.id, unit: each.unit?.index ?? 0 }));
    const task: Task =
      kind === "step"
        ? { kind, shapeKey, rows }
        : kind === "decode"
          ? { kind, id, unit: unit!.index }
          : { kind, id };
    this.#flights.push({ task, exclusive: this.#flights.length === 0, suspect, units });
    return task;
  }

  // --- devices -----------------------------------------------------------------------------------

  #isBusy(device: number): boolean {
    const { devices } = this.#limits;
    return this.#flights.some(
      ({ task: { kind } }) =>
        kind !== "step" && devices[kind === "encode" ? "encode" : "decode"].includes(device),
    );
  }

  #laneIsFree(kind: Task["kind"], all: readonly Candidate[]): boolean {
    const stepReady = all.some((each) => each.kind === "step");
    const { devices } = this.#limits;
    return devices[kind === "encode" ? "encode" : "decode"].every(
      (device) => !this.#isBusy(device) && !(stepReady && this.#stepDue.has(device)),
    );
  }

  // --- turns -------------------------------------------------------------------------------------

  #sorted(candidates: readonly Candidate[], nowMs: number, count: number): Candidate[] {
    const moment = ({ latestStartMs, job }: Candidate): number =>
      latestStartMs < nowMs ? job.lateMs : Math.min(job.patientMs, job.deadlineMs ?? Infinity);
    const keys = (each: Candidate): number[] => [
      this.#tag(each.job.tenant),
      this.#tenants.indexOf(each.job.tenant),
      moment(each),
      this.#of(each.job).sequence,
      each.unit?.index ?? -1,
    ];
    return candidates.toSorted((a, b) => compare(keys(a), keys(b))).slice(0, count);
  }

  #latestStart(job: Resident, unit: ResidentUnit | undefined): number {
    const { deadlineMs, passes, shapeKey, steps } = job;
    if (deadlineMs === undefined) return Infinity;
    const left = steps - (unit?.step ?? 0);
    const seconds = left * passes * (this.#costs.rowSeconds(shapeKey) ?? 0);
    return deadlineMs - seconds * this.#limits.devices.step.length * 1000;
  }

  // --- tenants -----------------------------------------------------------------------------------

  #rowsOf(tenant: string): number {
    const own = this.#known.filter(({ job }) => job.tenant === tenant);
    return own.reduce((sum, { rows }) => sum + rows, 0);
  }

  #tag(tenant: string): number {
    const tag = this.#tags.get(tenant)!;
    return this.#rowsOf(tenant) > 0 ? tag : Math.max(tag, this.#virtual);
  }

  #setRows(known: Known, rows: number): void {
    const { tenant } = known.job;
    const wasActive = this.#known.some((each) => each.rows > 0);
    if (rows > 0 && this.#rowsOf(tenant) === 0) this.#tags.set(tenant, this.#tag(tenant));
    known.rows = rows;
    if (!wasActive || this.#known.some((each) => each.rows > 0)) return;
    this.#virtual = Math.max(this.#virtual, ...this.#tags.values());
    this.#forgetTenants();
  }

  #charge({ tenant, share, passes, shapeKey }: Resident): void {
    const cost = (passes * this.#costs.chargeSeconds(shapeKey)) / share;
    const tag = this.#tags.get(tenant)!;
    const furthest = this.#virtual + this.#limits.rowsMax * cost;
    this.#tags.set(tenant, Math.max(tag, Math.min(tag + cost, furthest)));
  }

  /** Those without a job and without a debt. */
  #forgetTenants(): void {
    this.#tenants = this.#tenants.filter((tenant) => {
      const here = this.#known.some(({ job }) => job.tenant === tenant);
      if (here || this.#tags.get(tenant)! > this.#virtual) return true;
      this.#tags.delete(tenant);
      return false;
    });
  }

  #of(job: Resident): Known {
    return this.#known.find((known) => known.job === job)!;
  }
}

function compare(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at < 0 ? 0 : a[at]! - b[at]!;
}
