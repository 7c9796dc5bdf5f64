/** Whose turn it is, seen from outside: the driver with a device that works in virtual time. */
import { describe, expect, test } from "vitest";
import { assert } from "@fluxline/kernel/assert.ts";
import { type PriorityClass, priorityClasses } from "@fluxline/kernel/priority-class.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { Driver, type DriverInput, type DriverLimits, type JobFacts } from "./driver.ts";
import { ONE_DEVICE, type Row, type Task } from "./step-batcher.ts";

const LIMITS: DriverLimits = {
  rowsMax: 4,
  residentsMax: 64,
  batching: "measured",
  stepsInFlightMax: 1,
  devices: ONE_DEVICE,
};
const SECOND_MS = 1_000;

function facts(id: string, change: Partial<JobFacts> = {}): JobFacts {
  return {
    id,
    tenant: "t",
    share: 1,
    priorityClass: "standard",
    shapeKey: "a",
    steps: 10,
    passes: 1,
    units: [{ index: 0, step: 0 }],
    alone: false,
    ...change,
  };
}

/** A device that takes tasks one after another. */
class Device {
  readonly driver: Driver;
  readonly #seconds: (shapeKey: string, rows: number) => number;
  readonly #jobs = new Map<string, JobFacts>();
  readonly flying: Task[] = [];
  readonly finished: string[] = [];
  nowMs = 1_000_000;

  constructor(
    limits: Partial<DriverLimits> = {},
    seconds: (shapeKey: string, rows: number) => number = (_, rows) => 0.01 * rows,
  ) {
    this.driver = new Driver({ ...LIMITS, ...limits });
    this.#seconds = seconds;
  }

  assign(...jobs: JobFacts[]): void {
    for (const job of jobs) {
      this.#jobs.set(job.id, job);
      this.#send({ kind: "assigned", job });
    }
  }

  job(id: string): JobFacts {
    return this.#jobs.get(id)!;
  }

  /** Completes the oldest task; the rows of it, if it was a step. */
  work(): readonly Row[] {
    const task = this.flying.shift();
    assert(task !== undefined, "nothing is in flight");
    const rows = task.kind === "step" ? task.rows : [];
    const passes = rows.reduce((sum, { id }) => sum + this.job(id).passes, 0);
    const seconds = task.kind === "step" ? this.#seconds(task.shapeKey, passes) : 0.001;
    this.nowMs += seconds * SECOND_MS;
    this.#send({ kind: "task-done", task, seconds });
    return rows;
  }

  /** Ids of the rows of the next steps, step by step. */
  steps(count: number): string[][] {
    const steps: string[][] = [];
    while (steps.length < count && this.flying.length > 0) {
      const rows = this.work();
      if (rows.length > 0) steps.push(rows.map(({ id }) => id));
    }
    return steps;
  }

  /** Runs until every size that can be filled was tried, and nothing is resident. */
  learn(shapeKey: string, rows: number): void {
    const ids = Array.from({ length: rows }, (_, i) => `learn-${shapeKey}-${i}`);
    this.assign(...ids.map((id) => facts(id, { shapeKey, steps: 40 })));
    while (this.flying.length > 0) this.work();
  }

  #send(input: DriverInput): void {
    for (const effect of this.driver.step(input, this.nowMs)) {
      if (effect.kind === "run") this.flying.push(effect.task);
      if (effect.kind === "finished") this.finished.push(effect.id);
      if (effect.kind === "store") this.#send({ kind: "stored", id: effect.id, unit: effect.unit });
    }
  }
}

const LONG = { steps: 1_000_000 };

/** Seconds alone that each tenant's rows came to. */
function served(device: Device, steps: string[][], rowSeconds: (shapeKey: string) => number) {
  const seconds: Record<string, number> = {};
  for (const id of steps.flat()) {
    const { tenant, shapeKey } = device.job(id);
    seconds[tenant] = (seconds[tenant] ?? 0) + rowSeconds(shapeKey);
  }
  return seconds;
}

describe("between tenants", () => {
  test.each(["measured", "full"] as const)("shares decide, batching %s", (batching) => {
    const device = new Device({ batching });
    for (let i = 0; i < 4; i++) {
      device.assign(facts(`one-${i}`, { ...LONG, tenant: "one", share: 1 }));
      device.assign(facts(`three-${i}`, { ...LONG, tenant: "three", share: 3 }));
    }
    device.steps(100);
    const { one, three } = served(device, device.steps(4_000), () => 1);
    expect(three! / one!).toBeGreaterThan(2.9);
    expect(three! / one!).toBeLessThan(3.1);
  });

  test("it is cost that is shared, not steps", () => {
    const cost = (shapeKey: string): number => (shapeKey === "large" ? 0.08 : 0.01);
    const device = new Device({}, (shapeKey, rows) => cost(shapeKey) * rows);
    for (let i = 0; i < 4; i++) {
      device.assign(facts(`l-${i}`, { ...LONG, tenant: "l", shapeKey: "large" }));
      device.assign(facts(`s-${i}`, { ...LONG, tenant: "s", shapeKey: "small" }));
    }
    device.steps(200);
    const { l, s } = served(device, device.steps(4_000), cost);
    expect(l! / s!).toBeGreaterThan(0.95);
    expect(l! / s!).toBeLessThan(1.05);
  });

  test("who was away has saved nothing up", () => {
    const device = new Device();
    device.learn("a", 4);
    device.assign(facts("early", { ...LONG, tenant: "early" }));
    device.steps(500);
    device.assign(facts("late", { ...LONG, tenant: "late" }));
    device.steps(20);
    const { early, late } = served(device, device.steps(40), () => 1);
    expect(Math.abs(early! - late!)).toBeLessThanOrEqual(2);
  });

  test("who rode along in batches of others need not wait long when they are gone", () => {
    // A large share leads with batches that have room; the rider's tag would run far ahead.
    const device = new Device({ batching: "full" });
    device.assign(facts("leader", { tenant: "leader", share: 100, steps: 500 }));
    device.assign(facts("rider", { ...LONG, tenant: "rider" }));
    device.steps(480);
    device.assign(facts("other", { ...LONG, tenant: "other", shapeKey: "b" }));
    while (!device.finished.includes("leader")) device.work();
    const first = device.steps(LIMITS.rowsMax + 3).flat();
    expect(first).toContain("rider");
  });
});

describe("within a tenant", () => {
  test("where a batch gains nothing, requests end one after another, as they came", () => {
    const device = new Device();
    device.learn("a", 4);
    device.assign(facts("first"), facts("second"), facts("third"));
    const steps = device.steps(30);
    expect(steps.every((rows) => rows.length === 1)).toBe(true);
    const order = steps.flat().filter((id, i, all) => id !== all[i - 1]);
    expect(order).toEqual(["first", "second", "third"]);
  });

  test("where it gains, they share batches", () => {
    const device = new Device({}, (_, rows) => 0.01 * rows ** 0.5);
    device.learn("a", 4);
    device.assign(...["a", "b", "c", "d"].map((id) => facts(id, LONG)));
    device.steps(10);
    for (const rows of device.steps(20)) expect(rows).toHaveLength(4);
  });

  test("a more urgent newcomer leads the next batch once it is encoded", () => {
    const device = new Device();
    device.learn("a", 4);
    device.assign(facts("batch", { ...LONG, priorityClass: "batch" }));
    device.steps(3);
    device.assign(facts("urgent", { ...LONG, priorityClass: "interactive" }));
    while (device.flying[0]?.kind === "step") device.work();
    expect(device.flying[0]).toEqual({ kind: "encode", id: "urgent" });
    device.work();
    expect(device.steps(1)).toEqual([["urgent"]]);
  });

  test("nothing passes what has waited for its patience", () => {
    const device = new Device();
    device.learn("a", 4);
    device.assign(facts("batch", { ...LONG, priorityClass: "batch" }));
    device.steps(3);
    device.nowMs += 61 * SECOND_MS;
    device.assign(facts("urgent", { ...LONG, priorityClass: "interactive" }));
    expect(new Set(device.steps(20).flat())).toEqual(new Set(["batch"]));
  });

  test("a job that was asked for earlier goes first, although it was placed here later", () => {
    const device = new Device();
    device.learn("a", 4);
    device.assign(facts("here", LONG));
    device.steps(3);
    device.assign(facts("moved", { ...LONG, arrivalMs: device.nowMs - 60 * SECOND_MS }));
    device.steps(1);
    expect(new Set(device.steps(20).flat())).toEqual(new Set(["moved"]));
  });

  test("a deadline that can just be met goes first; one that cannot counts for nothing", () => {
    const device = new Device();
    device.learn("a", 4);
    device.assign(facts("first", LONG));
    device.steps(3);
    const soon = { steps: 10, deadlineMs: device.nowMs + 200 };
    device.assign(facts("soon", soon));
    device.assign(facts("hopeless", { ...soon, steps: 1_000 }));
    device.steps(1);
    const order = device.steps(40).flat();
    expect(order.slice(0, 10)).toEqual(Array.from({ length: 10 }, () => "soon"));
    expect(new Set(order.slice(10))).toEqual(new Set(["first"]));
    expect(device.nowMs).toBeGreaterThan(soon.deadlineMs);
  });

  test("what is late steps behind what can still end in time, until it has waited a minute", () => {
    const device = new Device();
    device.learn("a", 4);
    const late = { steps: 100, deadlineMs: device.nowMs + 500 };
    device.assign(facts("late", late), facts("in time", { steps: 40, deadlineMs: Infinity }));
    device.steps(2);
    expect(new Set(device.steps(20).flat())).toEqual(new Set(["in time"]));
    device.nowMs += 61 * SECOND_MS;
    device.assign(facts("newcomer", { ...LONG, deadlineMs: Infinity }));
    device.steps(2);
    const order = device.steps(200).flat();
    expect(order.indexOf("late")).toBeLessThan(order.indexOf("newcomer"));
  });

  test("of two deadlines that can be met the earlier goes first, however long the work is", () => {
    const device = new Device();
    device.learn("a", 4);
    const { nowMs } = device;
    device.assign(facts("other", { steps: 2 }));
    device.assign(facts("long", { steps: 100, deadlineMs: nowMs + 4_000 }));
    device.assign(facts("short", { steps: 5, deadlineMs: nowMs + 3_000 }));
    const order = device.steps(200).flat();
    const last = (id: string) => order.lastIndexOf(id);
    expect(last("short")).toBeLessThan(last("long"));
  });

  test("a batch is no larger than lets its leader meet its deadline", () => {
    // Four rows take twice as long as one: the leader has time for one or two.
    const device = new Device({}, (_, rows) => 0.01 * rows ** 0.5);
    device.learn("a", 4);
    const mates = ["b", "c", "d"].map((id) => facts(id, LONG));
    device.assign(facts("leader", { steps: 20, deadlineMs: device.nowMs + 20 * 15 }));
    device.assign(...mates);
    const rows = device.steps(30).filter((step) => step.includes("leader"));
    expect(device.finished).toContain("leader");
    expect(Math.max(...rows.map((step) => step.length))).toBeLessThan(4);
    expect(device.steps(5).map((step) => step.length)).toContain(3);
  });

  test("of true guidance both rows are in one batch, and images of a job are rows of their own", () => {
    const device = new Device({ batching: "full" });
    const units = [0, 1, 2].map((index) => ({ index, step: 0 }));
    device.assign(facts("two", { ...LONG, passes: 2 }), facts("three", { ...LONG, units }));
    device.steps(2);
    // Four places: two for the one, two of the other's three images.
    expect(device.steps(1)).toEqual([["two", "three", "three"]]);
  });
});

describe("no row waits for ever", () => {
  const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);
  test(`each runs within the bound of docs/step-batching.md (FLUXLINE_SEED=${seed})`, () => {
    for (let round = 0; round < 20; round++) {
      try {
        walk(new Random(seed + round));
      } catch (error) {
        throw new Error(`with FLUXLINE_SEED=${seed + round}`, { cause: error });
      }
    }
  });
});

const SHAPE_COST: Readonly<Record<string, number>> = { a: 0.001, b: 0.003 };
const SHARES = [1, 2, 4];
const TENANTS = 4;

/** Keeps the device full with all kinds of work, and counts what each image waits for. */
function walk(random: Random): void {
  const rowsMax = 1 + random.below(4);
  const batching = random.below(2) === 0 ? "measured" : "full";
  const device = new Device({ rowsMax, batching, residentsMax: 12 }, (shapeKey, rows) => {
    return SHAPE_COST[shapeKey]! * rows;
  });
  const arrivals = new Map<string, number>();
  /** Steps done when the image last ran or, before its first step, when its text was encoded. */
  const seen = new Map<string, number>();
  /** Steps done when a job was done. */
  const ends = new Map<string, number>();
  let steps = 0;
  let index = 0;
  for (let event = 0; event < 3_000; event++) {
    const id = `job-${index}`;
    const count = 1 + random.below(2);
    while (device.driver.admission(id, count) === "accepted" && !arrivals.has(id)) {
      index += 1;
      arrivals.set(id, device.nowMs);
      device.assign(drawFacts(random, id, count, device.nowMs));
    }
    const [task] = device.flying;
    const rows = device.work();
    if (task?.kind === "encode") {
      for (const { index: unit } of device.job(task.id).units)
        seen.set(`${task.id}/${unit}`, steps);
    }
    for (const done of device.finished.splice(0)) ends.set(done, steps);
    if (rows.length === 0) continue;
    steps += 1;
    for (const row of rows) {
      const image = `${row.id}/${row.unit}`;
      const since = seen.get(image)!;
      const waited = steps - since;
      const isHere = (other: string): boolean => (ends.get(other) ?? steps) >= since;
      const bound = boundOf(
        device,
        row.id,
        rowsMax,
        new Map([...arrivals].filter(([o]) => isHere(o))),
      );
      assert(waited <= bound, `${image} waited for ${waited} steps, more than ${bound}`);
      seen.set(image, steps);
    }
  }
}

function drawFacts(random: Random, id: string, count: number, nowMs: number): JobFacts {
  const tenant = random.below(TENANTS);
  const priorityClass: PriorityClass = priorityClasses[random.below(3)]!;
  return facts(id, {
    tenant: `tenant-${tenant}`,
    share: SHARES[tenant % SHARES.length]!,
    priorityClass,
    shapeKey: random.below(2) === 0 ? "a" : "b",
    steps: 1 + random.below(6),
    passes: 1 + random.below(2),
    units: Array.from({ length: count }, (_, unit) => ({ index: unit, step: 0 })),
    deadlineMs: random.below(3) === 0 ? nowMs + random.below(500) : undefined,
  });
}

/** As docs/step-batching.md states it. `arrivals`: of the jobs that were here while it waited. */
function boundOf(
  device: Device,
  id: string,
  rowsMax: number,
  arrivals: ReadonlyMap<string, number>,
): number {
  const own = device.job(id);
  let ahead = 0;
  for (const [other, arrivalMs] of arrivals) {
    const job = device.job(other);
    if (job.tenant !== own.tenant || other === id) continue;
    if (arrivalMs <= arrivals.get(id)! + 60_000) ahead += job.steps * job.units.length;
  }
  const dearest = (2 * SHAPE_COST["b"]!) / own.share;
  let between = 0;
  for (let tenant = 0; tenant < TENANTS; tenant++) {
    if (`tenant-${tenant}` === own.tenant) continue;
    const cheapest = SHAPE_COST["a"]! / SHARES[tenant % SHARES.length]!;
    between += Math.ceil((rowsMax * dearest) / cheapest) + 1;
  }
  return (ahead + own.units.length * own.steps) * (1 + between);
}
