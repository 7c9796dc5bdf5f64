/**
 * Batching by request, as servers do that treat a whole image as one call: a batch is formed when
 * the device is free, and nobody joins until it has ended. The baseline that step batching is
 * measured against, so it gets all that such servers have: a largest batch, a time that the oldest
 * request waits for mates, batches of one shape, oldest first.
 *
 * What it does about different step counts:
 *   equal-steps  only requests with the same steps share a batch (a diffusers pipeline takes one
 *                number of steps for all)
 *   longest      the batch runs for as many steps as its longest member; who is done stays in it
 *                as padding, and all are answered at its end
 *   leaving      kinder than what is published: who is done leaves at once and is answered, and
 *                the batch goes on smaller
 *
 * With a largest batch of 1 it is first come, first served.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type {
  Admission,
  DriverEffect,
  DriverInput,
  JobFacts,
} from "@fluxline/gpu-node/core/driver.ts";
import type { Task } from "@fluxline/gpu-node/core/step-batcher.ts";
import { StepCostTable } from "@fluxline/gpu-node/core/step-cost.ts";
import type { ServingPolicy, Waiting } from "./serving-policy.ts";

export type Grouping = "equal-steps" | "longest" | "leaving";

export interface RequestBatchLimits {
  readonly grouping: Grouping;
  readonly batchMax: number;
  /** How long the oldest of a group waits for mates on a free device. */
  readonly waitMsMax: number;
  /**
   * Kinder than what is published: given the time that a request takes alone, those that cannot
   * meet their deadline any more wait until nobody else does.
   */
  readonly lateLast?: (facts: JobFacts) => number;
}

interface Member {
  readonly facts: JobFacts;
  readonly arrivedMs: number;
  encoded: boolean;
  step: number;
  decoded: boolean;
}

export class RequestBatching implements ServingPolicy, Waiting {
  readonly draining = false;
  /** It asks for none. */
  readonly stepCosts = new StepCostTable();
  readonly #limits: RequestBatchLimits;
  /** Groups of requests that can share a batch; each, and each of its members, by arrival. */
  readonly #waiting = new Map<string, Member[]>();
  /** The same of those that are late already, with `lateLast`. */
  readonly #late = new Map<string, Member[]>();
  readonly #known = new Map<string, Member>();
  #batch: readonly Member[] = [];
  #inFlight = false;
  #wakeMs: number | undefined;

  constructor(limits: RequestBatchLimits) {
    assert(limits.batchMax >= 1, `the largest batch is ${limits.batchMax}`);
    this.#limits = limits;
  }

  get wakeMs(): number | undefined {
    return this.#wakeMs;
  }

  admission(id: string): Admission {
    return this.#known.has(id) ? "resident" : "accepted";
  }

  residents(): ReturnType<ServingPolicy["residents"]> {
    return [...this.#known.values()].map(({ facts, step }) => {
      return { id: facts.id, stepsDone: step, stepsTotal: facts.steps };
    });
  }

  step(input: DriverInput, nowMs: number): DriverEffect[] {
    const effects = this.#apply(input, nowMs);
    if (!this.#inFlight) effects.push(...this.#next(nowMs));
    return effects;
  }

  #apply(input: DriverInput, nowMs: number): DriverEffect[] {
    switch (input.kind) {
      case "assigned":
        return this.#arrive(input.job, nowMs);
      case "task-done":
        return this.#done(input.task);
      case "stored":
        this.#known.delete(input.id);
        return [{ kind: "finished", id: input.id }];
      case "fenced":
        return []; // a nudge
      default:
        throw new Error(`request batching was not made for ${input.kind}`, { cause: input });
    }
  }

  #arrive(facts: JobFacts, arrivedMs: number): DriverEffect[] {
    assert(facts.units.length === 1 && facts.passes === 1, `${facts.id} is more than one row`);
    const member = { facts, arrivedMs, encoded: false, step: 0, decoded: false };
    this.#known.set(facts.id, member);
    this.#join(this.#waiting, member);
    return [];
  }

  #done(task: Task): DriverEffect[] {
    this.#inFlight = false;
    if (task.kind === "step") {
      const stepped = new Set(task.rows.map((row) => row.id));
      for (const member of this.#batch) if (stepped.has(member.facts.id)) member.step += 1;
      return [];
    }
    const member = this.#known.get(task.id);
    assert(member !== undefined, `${task.id} is not known`);
    if (task.kind === "encode") {
      member.encoded = true;
      return [];
    }
    assert(task.kind === "decode", "nobody asks for previews here");
    member.decoded = true;
    return [{ kind: "store", id: task.id, unit: task.unit }];
  }

  #next(nowMs: number): DriverEffect[] {
    const effects: DriverEffect[] = [];
    if (this.#batch.every((member) => member.decoded)) {
      this.#batch = this.#form(nowMs);
      effects.push(...this.#batch.map(({ facts }) => ({ kind: "started", id: facts.id }) as const));
    }
    const task = this.#task();
    if (task !== undefined) effects.push({ kind: "run", task });
    this.#inFlight = task !== undefined;
    return effects;
  }

  #task(): Task | undefined {
    const waiting = this.#batch.find((member) => !member.encoded);
    if (waiting !== undefined) return { kind: "encode", id: waiting.facts.id };
    const running = this.#batch.filter((member) => member.step < member.facts.steps);
    const mayDecode = this.#limits.grouping === "leaving" || running.length === 0;
    const ended = this.#batch.find((member) => {
      return !member.decoded && member.step >= member.facts.steps;
    });
    if (mayDecode && ended !== undefined) return { kind: "decode", id: ended.facts.id, unit: 0 };
    const [first] = running;
    if (first === undefined) return undefined;
    const rows = this.#limits.grouping === "longest" ? this.#batch : running;
    return {
      kind: "step",
      shapeKey: first.facts.shapeKey,
      rows: rows.map(({ facts }) => ({ id: facts.id, unit: 0 })),
    };
  }

  #join(groups: Map<string, Member[]>, member: Member): void {
    const { shapeKey, steps } = member.facts;
    const group = this.#limits.grouping === "equal-steps" ? `${shapeKey}:${steps}` : shapeKey;
    const members = groups.get(group);
    if (members === undefined) groups.set(group, [member]);
    else members.push(member);
  }

  #form(nowMs: number): readonly Member[] {
    this.#setLateAside(nowMs);
    this.#wakeMs = undefined;
    const { waitMsMax } = this.#limits;
    const batch = this.#take(this.#waiting, nowMs, waitMsMax);
    return batch.length > 0 || this.#waiting.size > 0 ? batch : this.#take(this.#late, nowMs, 0);
  }

  #setLateAside(nowMs: number): void {
    const { lateLast } = this.#limits;
    if (lateLast === undefined) return;
    const isLate = ({ facts }: Member): boolean =>
      facts.deadlineMs !== undefined && nowMs + lateLast(facts) > facts.deadlineMs;
    for (const [group, members] of this.#waiting) {
      const { late = [], onTime = [] } = Object.groupBy(members, (member) =>
        isLate(member) ? "late" : "onTime",
      );
      for (const member of late) this.#join(this.#late, member);
      if (onTime.length > 0) this.#waiting.set(group, onTime);
      else this.#waiting.delete(group);
    }
  }

  /** Of the groups that are full or have waited long enough, the one with the oldest request. */
  #take(groups: Map<string, Member[]>, nowMs: number, waitMsMax: number): readonly Member[] {
    const { batchMax } = this.#limits;
    let chosen: string | undefined;
    let oldestMs = Infinity;
    let wakeMs: number | undefined;
    for (const [group, members] of groups) {
      const { arrivedMs } = members[0]!;
      const due = arrivedMs + waitMsMax;
      if (members.length < batchMax && nowMs < due) {
        wakeMs = Math.min(wakeMs ?? Infinity, due);
      } else if (arrivedMs < oldestMs) {
        chosen = group;
        oldestMs = arrivedMs;
      }
    }
    if (chosen === undefined) {
      this.#wakeMs = wakeMs;
      return [];
    }
    const members = groups.get(chosen)!;
    const batch = members.splice(0, batchMax);
    if (members.length === 0) groups.delete(chosen);
    return batch;
  }
}
