/** The driver over random histories: whatever happens, each job ends once and its limits hold. */
import { describe, expect, test } from "vitest";
import { assert } from "@fluxline/kernel/assert.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { type PriorityClass, priorityClasses } from "@fluxline/kernel/priority-class.ts";
import { Driver, type DriverEffect, type DriverInput, type DriverLimits } from "./driver.ts";
import type { DevicePlan, Task } from "./step-batcher.ts";

/** Of shape-1; of shape-0 nobody has said. */
const ROWS_THAT_FIT = 3;
const ENDS = ["finished", "failed", "released", "dropped"];
const FAILURES = [
  "RUNNER_DIED",
  "RUNNER_DIED",
  "STAGE_LOST",
  "GRAPH_FAILED",
  "DEVICE_OUT_OF_MEMORY",
];
const PLANS: readonly DevicePlan[] = [
  { step: [0], encode: [0], decode: [0] },
  { step: [0, 1], encode: [0, 1], decode: [1] },
  { step: [0, 1, 2], encode: [0], decode: [3] },
];

const failure = (reason: string) => ({
  code: "internal" as const,
  reason,
  message: reason,
  retryable: reason !== "DEVICE_OUT_OF_MEMORY",
  violations: [],
  details: {},
});

class History {
  readonly #random: Random;
  readonly #limits: DriverLimits;
  readonly #driver: Driver;
  readonly #flying: Task[] = [];
  readonly #storing: { id: string; unit: number }[] = [];
  readonly #stored = new Set<string>();
  readonly #passes = new Map<string, number>();
  readonly #ends = new Map<string, DriverEffect["kind"]>();
  readonly #assigned: string[] = [];
  #nowMs = 0;

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.#limits = {
      rowsMax: 1 + this.#random.below(5),
      residentsMax: 1 + this.#random.below(8),
      batching: this.#random.below(2) === 0 ? "measured" : "full",
      stepsInFlightMax: 1 + this.#random.below(4),
      devices: PLANS[this.#random.below(PLANS.length)]!,
    };
    this.#driver = new Driver(this.#limits);
  }

  run(events: number): void {
    for (let event = 0; event < events; event++) this.#event();
    this.#send({ kind: "devices", state: "whole" });
    while (this.#flying.length > 0 || this.#storing.length > 0) {
      if (this.#flying.length > 0) this.#land(0);
      const stored = this.#storing.shift();
      if (stored !== undefined) this.#store(stored, 0);
    }
    expect(this.#driver.residents()).toEqual([]);
    expect([...this.#ends.keys()].sort()).toEqual(this.#assigned.toSorted());
  }

  #event(): void {
    this.#nowMs += this.#random.below(200);
    const draw = this.#random.below(20);
    if (draw < 6) this.#assign();
    else if (draw === 6) this.#disturb();
    else if (draw < 9 && this.#storing.length > 0) {
      const at = this.#random.below(this.#storing.length);
      this.#store(this.#storing.splice(at, 1)[0]!, 4);
    } else if (this.#flying.length > 0) this.#land(8);
    else this.#send({ kind: "devices", state: "whole" });
  }

  #assign(): void {
    const random = this.#random;
    const id = `job-${this.#assigned.length}`;
    const units = Array.from({ length: 1 + random.below(3) }, (_, index) => {
      return { index, step: random.below(4) };
    });
    if (this.#driver.admission(id, units.length) !== "accepted") return;
    this.#assigned.push(id);
    const passes = 1 + random.below(2);
    this.#passes.set(id, passes);
    const priorityClass: PriorityClass = priorityClasses[random.below(3)]!;
    const deadlineMs = random.below(2) === 0 ? undefined : this.#nowMs + random.below(5_000);
    const shape = random.below(2);
    const shapeKey = `shape-${shape}`;
    const memory = shape === 0 ? {} : { rowsMax: ROWS_THAT_FIT };
    const tenant = `tenant-${random.below(3)}`;
    const terms = { tenant, share: 1 + random.below(4), priorityClass, deadlineMs };
    const alone = random.below(8) === 0;
    const needsProbe = random.below(4) === 0;
    this.#send({
      kind: "assigned",
      job: { ...terms, ...memory, id, shapeKey, steps: 3, passes, units, alone, needsProbe },
    });
  }

  #disturb(): void {
    const victim = this.#assigned[this.#random.below(this.#assigned.length)] ?? "nobody";
    const draw = this.#random.below(4);
    if (draw === 0) this.#send({ kind: "fenced", id: victim });
    else if (draw === 1) this.#send({ kind: "revoked", id: victim, reason: "preempted" });
    else if (draw === 2) this.#send({ kind: "revoked", id: victim, reason: "cancelled" });
    else this.#send({ kind: "devices", state: "broken" });
  }

  /** Tasks come back in any order. */
  #land(oneInFails: number): void {
    const random = this.#random;
    const task = this.#flying.splice(random.below(this.#flying.length), 1)[0]!;
    if (oneInFails > 0 && random.below(oneInFails) === 0) {
      const reason = FAILURES[random.below(FAILURES.length)]!;
      return this.#send({ kind: "task-failed", task, error: failure(reason) });
    }
    const rows = task.kind === "step" ? task.rows : [];
    const poisoned = oneInFails > 0 && random.below(30) === 0 ? rows.slice(0, 1) : [];
    this.#send({ kind: "task-done", task, notFinite: poisoned, seconds: random.float() });
  }

  #store(image: { id: string; unit: number }, oneInFails: number): void {
    const failed = oneInFails > 0 && this.#random.below(oneInFails) === 0;
    if (failed) this.#send({ ...image, kind: "store-failed", error: failure("DISK_FULL") });
    else this.#send({ ...image, kind: "stored" });
  }

  #send(input: DriverInput): void {
    for (const effect of this.#driver.step(input, this.#nowMs)) {
      if ("id" in effect) assert(!this.#ends.has(effect.id), `${effect.id} after its end`);
      if (effect.kind === "run") this.#begin(effect.task);
      if (effect.kind === "store") {
        const image = `${effect.id}/${effect.unit}`;
        assert(!this.#stored.has(image), `${image} is stored twice`);
        this.#stored.add(image);
        this.#storing.push(effect);
      }
      if (ENDS.includes(effect.kind) && "id" in effect) this.#ends.set(effect.id, effect.kind);
    }
    this.#checkLimits();
  }

  #begin(task: Task): void {
    const images = (other: Task): string[] =>
      other.kind === "step"
        ? other.rows.map(({ id, unit }) => `${id}/${unit}`)
        : other.kind === "decode"
          ? [`${other.id}/${other.unit}`]
          : [];
    const inFlight = new Set(this.#flying.flatMap(images));
    for (const image of images(task)) {
      assert(!inFlight.has(image), `${image} is in two tasks`);
      inFlight.add(image);
    }
    this.#flying.push(task);
    if (task.kind !== "step") return;
    const passes = task.rows.map(({ id }) => this.#passes.get(id)!);
    const rows = passes.reduce((sum, each) => sum + each, 0);
    const fitting = task.shapeKey === "shape-1" ? ROWS_THAT_FIT : Infinity;
    const rowsMax = Math.min(this.#limits.rowsMax, fitting);
    assert(task.rows.length === 1 || rows <= rowsMax, `a batch of ${rows} rows`);
  }

  #checkLimits(): void {
    const { devices, stepsInFlightMax } = this.#limits;
    const steps = this.#flying.filter(({ kind }) => kind === "step").length;
    assert(steps <= stepsInFlightMax, `${steps} steps in flight`);
    const lanes = this.#flying.flatMap(({ kind }) =>
      kind === "step" ? [] : devices[kind === "encode" ? "encode" : "decode"],
    );
    assert(new Set(lanes).size === lanes.length, "encodings or decodes share a device");
  }
}

describe("over random histories", () => {
  const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);
  test(`every job ends exactly once and the limits hold (FLUXLINE_SEED=${seed})`, () => {
    for (let round = 0; round < 400; round++) {
      try {
        new History(seed + round).run(150);
      } catch (error) {
        throw new Error(`with FLUXLINE_SEED=${seed + round}`, { cause: error });
      }
    }
  });
});
