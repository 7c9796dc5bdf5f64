/**
 * One policy, one stream of requests, one simulated device, in virtual time: nothing sleeps, and
 * the same arguments give the same figures. The device takes its tasks in the order in which the
 * policy starts them. What the policy does not admit waits in front of it, first come first served.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { PriorityClass } from "@fluxline/kernel/priority-class.ts";
import type { DriverEffect, DriverInput, JobFacts } from "@fluxline/gpu-node/core/driver.ts";
import type { Task } from "@fluxline/gpu-node/core/step-batcher.ts";
import type { Arrival } from "./arrivals.ts";
import { NUDGE, type ServingPolicy, type Waiting } from "./serving-policy.ts";
import { type DeviceCosts, taskMs } from "./simulated-device.ts";

export interface VirtualRun {
  readonly policy: ServingPolicy & Partial<Waiting>;
  readonly arrivals: readonly Arrival[];
  /** Arrivals per millisecond. */
  readonly rate: number;
  readonly costs: DeviceCosts;
  /** The latest that a request may end after its arrival. */
  readonly sloMs: (arrival: Arrival) => number;
  /** Whether the policy is told when each must end. */
  readonly deadlinesTold: boolean;
  /** Of all requests. */
  readonly priorityClass: PriorityClass;
  /** The run ends early once more requests than this are late: then its outcome is known. */
  readonly lateMax: number;
}

export interface VirtualOutcome {
  /** Per request that ended, in order of its end. */
  readonly ended: readonly { readonly arrival: Arrival; readonly latencyMs: number }[];
  readonly late: number;
  /** All have ended, and no more of them late than were allowed. */
  readonly held: boolean;
  readonly busyMs: number;
  readonly endMs: number;
  /** Step tasks by number of rows, and the rows of all. */
  readonly stepTasks: number;
  readonly stepRows: number;
}

export function runVirtually(run: VirtualRun): VirtualOutcome {
  const world = new VirtualWorld(run);
  while (world.advance());
  return world.outcome();
}

class VirtualWorld {
  readonly #run: VirtualRun;
  readonly #byId: Map<string, Arrival>;
  #nowMs = 0;
  #nextArrival = 0;
  /** Arrived, and not admitted yet. */
  readonly #front: Arrival[] = [];
  /** Started by the policy and not done; the device works on the first. */
  readonly #queue: Task[] = [];
  #busy: { readonly untilMs: number; readonly seconds: number } | undefined;
  readonly #ended: { arrival: Arrival; latencyMs: number }[] = [];
  #late = 0;
  #busyMs = 0;
  #stepTasks = 0;
  #stepRows = 0;

  constructor(run: VirtualRun) {
    this.#run = run;
    this.#byId = new Map(run.arrivals.map((arrival) => [arrival.id, arrival]));
  }

  /** Lets the next thing happen; false when all is over. */
  advance(): boolean {
    const { arrivals, lateMax, policy } = this.#run;
    if (this.#ended.length === arrivals.length || this.#late > lateMax) return false;
    const arrival = arrivals[this.#nextArrival];
    const arrivalMs = arrival === undefined ? Infinity : this.#arrivedMs(arrival);
    const doneMs = this.#busy?.untilMs ?? Infinity;
    const wakeMs = policy.wakeMs ?? Infinity;
    const nextMs = Math.min(arrivalMs, doneMs, wakeMs);
    assert(nextMs < Infinity, `the policy leaves ${arrivals.length - this.#ended.length} waiting`);
    assert(nextMs >= this.#nowMs, "time went back");
    this.#nowMs = nextMs;
    if (doneMs === nextMs) this.#taskDone();
    else if (arrivalMs === nextMs) this.#arrive(arrival!);
    else this.#send(NUDGE);
    return true;
  }

  outcome(): VirtualOutcome {
    return {
      ended: this.#ended,
      late: this.#late,
      held: this.#ended.length === this.#run.arrivals.length && this.#late <= this.#run.lateMax,
      busyMs: this.#busyMs,
      endMs: this.#nowMs,
      stepTasks: this.#stepTasks,
      stepRows: this.#stepRows,
    };
  }

  #arrivedMs(arrival: Arrival): number {
    return arrival.atGaps / this.#run.rate;
  }

  #arrive(arrival: Arrival): void {
    this.#nextArrival += 1;
    this.#front.push(arrival);
    this.#admit();
  }

  #admit(): void {
    for (let first = this.#front[0]; first !== undefined; first = this.#front[0]) {
      if (this.#run.policy.admission(first.id, 1) !== "accepted") return;
      this.#front.shift();
      this.#send({ kind: "assigned", job: this.#facts(first) });
    }
  }

  #facts(arrival: Arrival): JobFacts {
    const { sloMs, deadlinesTold, priorityClass } = this.#run;
    const arrivalMs = this.#arrivedMs(arrival);
    return {
      id: arrival.id,
      shapeKey: arrival.size,
      steps: arrival.steps,
      passes: 1,
      units: [{ index: 0, step: 0 }],
      alone: false,
      tenant: "default",
      share: 1,
      priorityClass,
      arrivalMs,
      deadlineMs: deadlinesTold ? arrivalMs + sloMs(arrival) : undefined,
    };
  }

  #taskDone(): void {
    const task = this.#queue.shift();
    assert(task !== undefined && this.#busy !== undefined, "the device was busy with nothing");
    const { seconds } = this.#busy;
    this.#busy = undefined;
    this.#begin();
    this.#send({ kind: "task-done", task, seconds });
  }

  /** Starts the first task of the queue, if the device is free. */
  #begin(): void {
    const [task] = this.#queue;
    if (task === undefined || this.#busy !== undefined) return;
    const ms = taskMs(this.#run.costs, task, (id) => this.#byId.get(id)!.size);
    this.#busy = { untilMs: this.#nowMs + ms, seconds: ms / 1000 };
    this.#busyMs += ms;
    if (task.kind !== "step") return;
    this.#stepTasks += 1;
    this.#stepRows += task.rows.length;
  }

  #send(input: DriverInput): void {
    for (const effect of this.#run.policy.step(input, this.#nowMs)) this.#carryOut(effect);
  }

  #carryOut(effect: DriverEffect): void {
    if (effect.kind === "run") {
      this.#queue.push(effect.task);
      this.#begin();
    } else if (effect.kind === "store") {
      this.#send({ kind: "stored", id: effect.id, unit: effect.unit });
    } else if (effect.kind === "finished") {
      this.#finish(effect.id);
    } else if (effect.kind !== "started" && effect.kind !== "progress") {
      throw new Error(`nothing was to end so: ${JSON.stringify(effect)}`);
    }
  }

  #finish(id: string): void {
    const arrival = this.#byId.get(id)!;
    const latencyMs = this.#nowMs - this.#arrivedMs(arrival);
    this.#ended.push({ arrival, latencyMs });
    if (latencyMs > this.#run.sloMs(arrival)) this.#late += 1;
    this.#admit();
  }
}
