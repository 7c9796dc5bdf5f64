/** The driver with its adapter played by hand, for tests: tasks are kept and answered one by one. */
import {
  Driver,
  type DriverEffect,
  type DriverInput,
  type DriverLimits,
  type JobFacts,
} from "./driver.ts";
import { ONE_DEVICE, type Row, type Task } from "./step-batcher.ts";

export const LIMITS: DriverLimits = {
  rowsMax: 4,
  residentsMax: 8,
  batching: "full",
  stepsInFlightMax: 1,
  devices: ONE_DEVICE,
};
const TERMS = { tenant: "t", share: 1, priorityClass: "standard" } as const;

export function facts(id: string, change: Partial<JobFacts> = {}): JobFacts {
  const units = [{ index: 0, step: 0 }];
  return { ...TERMS, id, shapeKey: "64x64", steps: 3, passes: 1, units, alone: false, ...change };
}

export const failure = (reason: string, retryable = reason !== "DEVICE_OUT_OF_MEMORY") => ({
  code: "internal" as const,
  reason,
  message: reason,
  retryable,
  violations: [],
  details: {},
});

/** Plays the adapter: keeps every effect, answers tasks one by one. */
export class Bench {
  readonly driver: Driver;
  readonly effects: DriverEffect[] = [];
  readonly tasks: Task[] = [];
  readonly stores: { id: string; unit: number }[] = [];
  nowMs = 0;

  constructor(limits: Partial<DriverLimits> = {}) {
    this.driver = new Driver({ ...LIMITS, ...limits });
  }

  send(input: DriverInput): void {
    for (const effect of this.driver.step(input, this.nowMs)) {
      this.effects.push(effect);
      if (effect.kind === "run") this.tasks.push(effect.task);
      if (effect.kind === "store") this.stores.push(effect);
    }
  }

  assign(...jobs: JobFacts[]): void {
    for (const job of jobs) this.send({ kind: "assigned", job });
  }

  /** Completes the oldest task in flight. */
  work(notFinite: readonly Row[] = [], seconds?: number): Task {
    const task = this.tasks.shift();
    if (task === undefined) throw new Error("no task is in flight");
    this.send({ kind: "task-done", task, notFinite, seconds });
    return task;
  }

  fail(reason: string): Task {
    const task = this.tasks.shift();
    if (task === undefined) throw new Error("no task is in flight");
    this.send({ kind: "task-failed", task, error: failure(reason) });
    return task;
  }

  workUntilIdle(): void {
    while (this.tasks.length > 0 || this.stores.length > 0) {
      if (this.tasks.length > 0) this.work();
      for (const { id, unit } of this.stores.splice(0)) this.send({ kind: "stored", id, unit });
    }
  }

  kinds(id: string): string[] {
    return this.effects.flatMap((e) => ("id" in e && e.id === id ? [e.kind] : []));
  }
}

export const rowsOf = (task: Task) => (task.kind === "step" ? task.rows.map((row) => row.id) : []);
