import { describe, expect, test } from "vitest";
import { Random } from "@fluxline/kernel/random.ts";
import { type PriorityClass, priorityClasses } from "@fluxline/kernel/priority-class.ts";
import { ReferenceBatcher } from "./reference-batcher.ts";
import {
  type BatchLimits,
  type DevicePlan,
  type Resident,
  StepBatcher,
  type Task,
} from "./step-batcher.ts";
import { StepCostTable } from "./step-cost.ts";
import { lateMoment, patientMoment } from "./turn.ts";

type Batcher = Pick<ReferenceBatcher, "enter" | "leave" | "update" | "next" | "landed">;

const PLANS: readonly DevicePlan[] = [
  { step: [0], encode: [0], decode: [0] },
  { step: [0], encode: [0], decode: [1] },
  { step: [0, 1], encode: [0, 1], decode: [1] },
  { step: [0, 1, 2], encode: [3], decode: [2] },
];

/** What happens to the residents of one batcher: two of these are led through the same events. */
class World {
  readonly #batcher: Batcher;
  readonly #costs: StepCostTable;
  readonly jobs = new Map<string, Resident>();
  readonly flying: Task[] = [];

  constructor(batcher: (costs: StepCostTable) => Batcher) {
    this.#costs = new StepCostTable();
    this.#batcher = batcher(this.#costs);
  }

  enter(job: Resident, nowMs: number): void {
    this.jobs.set(job.id, job);
    this.#batcher.enter(job);
    this.#batcher.update(job, nowMs);
  }

  begin(nowMs: number): Task[] {
    const begun: Task[] = [];
    for (let task = this.#batcher.next(nowMs); task; task = this.#batcher.next(nowMs)) {
      begun.push(task);
    }
    this.flying.push(...begun);
    return begun;
  }

  stop(id: string, nowMs: number): void {
    const job = this.jobs.get(id)!;
    job.stopping = true;
    this.#settle(job, nowMs);
  }

  land(index: number, outcome: "done" | "died" | "lost", seconds: number, nowMs: number): void {
    const [task] = this.flying.splice(index, 1) as [Task];
    this.#batcher.landed(task);
    const rows = task.kind === "step" ? task.rows : [{ id: task.id, unit: 0 }];
    const jobs = new Set(rows.map(({ id }) => this.jobs.get(id)!));
    if (outcome === "done" && task.kind === "step") {
      const passes = rows.reduce((sum, { id }) => sum + this.jobs.get(id)!.passes, 0);
      this.#costs.observe(task.shapeKey, passes, seconds * passes ** 0.7);
    }
    for (const job of jobs) {
      if (task.kind === "encode") job.encoding = outcome === "done" ? "done" : "waiting";
      if (task.kind === "probe") job.probe = outcome === "done" ? "done" : "waiting";
      if (task.kind === "encode" || task.kind === "probe") job.encodingSuspect = outcome === "died";
      for (const unit of job.units) {
        const took =
          task.kind === "step" && rows.some((r) => r.id === job.id && r.unit === unit.index);
        const decoded = task.kind === "decode" && task.unit === unit.index;
        if (!took && !decoded) continue;
        if (outcome !== "lost") unit.suspect = outcome === "died";
        if (outcome !== "done") continue;
        if (decoded) unit.phase = "stored";
        else unit.step += 1;
        if (took && unit.step === job.steps) unit.phase = "decoding";
      }
      this.#settle(job, nowMs);
    }
  }

  #settle(job: Resident, nowMs: number): void {
    const preparing = job.encoding === "running" || job.probe === "running";
    const busy = preparing || job.units.some(({ inFlight }) => inFlight);
    const done = job.units.every(({ phase }) => phase === "stored");
    if (busy || !(done || job.stopping)) return this.#batcher.update(job, nowMs);
    this.#batcher.leave(job);
    this.jobs.delete(job.id);
  }
}

function drawLimits(random: Random): BatchLimits {
  return {
    rowsMax: 1 + random.below(6),
    batching: random.below(4) === 0 ? "full" : "measured",
    stepsInFlightMax: 1 + random.below(4),
    devices: PLANS[random.below(PLANS.length)]!,
  };
}

/** Twice the same job. */
function drawJob(random: Random, id: string, nowMs: number): [Resident, Resident] {
  const priorityClass: PriorityClass = priorityClasses[random.below(3)]!;
  const steps = 1 + random.below(5);
  const terms = {
    tenant: `tenant-${random.below(4)}`,
    share: 1 + random.below(3),
    priorityClass,
    deadlineMs: random.below(2) === 0 ? undefined : nowMs + random.below(20_000),
    arrivalMs: random.below(2) === 0 ? undefined : nowMs - random.below(10_000),
  };
  const images = Array.from({ length: 1 + random.below(3) }, () => random.below(steps + 1));
  const shape = random.below(3);
  const facts = {
    ...terms,
    id,
    shapeKey: `shape-${shape}`,
    // What fits is the same for all of a shape.
    ...(shape > 0 && { rowsMax: shape }),
    steps,
    passes: 1 + random.below(2),
    alone: random.below(8) === 0,
    probe: random.below(4) === 0 ? "waiting" : "done",
    patientMs: patientMoment(terms, nowMs),
    lateMs: lateMoment(terms, nowMs),
  } as const;
  const copy = (): Resident => ({
    ...facts,
    units: images.map((step, index) => {
      const phase = step === steps ? "decoding" : "denoising";
      return { index, step, phase, inFlight: false, suspect: false };
    }),
    encoding: "waiting",
    encodingSuspect: false,
    stopping: false,
  });
  return [copy(), copy()];
}

function compareOverOneHistory(seed: number): number {
  const random = new Random(seed);
  const limits = drawLimits(random);
  const world = new World((costs) => new StepBatcher(limits, costs));
  const reference = new World((costs) => new ReferenceBatcher(limits, costs));
  let nowMs = 100_000;
  let tasks = 0;
  for (let event = 0; event < 60; event++) {
    nowMs += random.below(1_500);
    const draw = random.below(10);
    if (draw < 4) {
      const [job, copy] = drawJob(random, `job-${event}`, nowMs);
      world.enter(job, nowMs);
      reference.enter(copy, nowMs);
    } else if (draw === 4 && world.jobs.size > 0) {
      const id = [...world.jobs.keys()][random.below(world.jobs.size)]!;
      for (const each of [world, reference]) each.stop(id, nowMs);
    } else if (world.flying.length > 0) {
      const index = random.below(world.flying.length);
      const fate = random.below(20);
      const outcome = fate === 0 ? "died" : fate === 1 ? "lost" : "done";
      const seconds = 0.1 + random.float();
      for (const each of [world, reference]) each.land(index, outcome, seconds, nowMs);
    }
    const [begun, expected] = [world.begin(nowMs), reference.begin(nowMs)];
    expect(begun, `event ${event}`).toEqual(expected);
    tasks += begun.length;
  }
  return tasks;
}

describe("against a batcher that looks at everything", () => {
  const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);
  test(
    `2,000 random histories give the same tasks (FLUXLINE_SEED=${seed})`,
    { timeout: 60_000 },
    () => {
      let tasks = 0;
      for (let round = 0; round < 2_000; round++) {
        try {
          tasks += compareOverOneHistory(seed + round);
        } catch (error) {
          throw new Error(`with FLUXLINE_SEED=${seed + round}`, { cause: error });
        }
      }
      expect(tasks).toBeGreaterThan(30_000);
    },
  );
});
