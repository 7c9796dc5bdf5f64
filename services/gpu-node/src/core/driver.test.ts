import { describe, expect, test } from "vitest";
import { Driver, type DriverInput, type DriverLimits } from "./driver.ts";
import { Bench, facts, failure, LIMITS, rowsOf } from "./driver-bench.ts";
import type { Task } from "./step-batcher.ts";

describe("one request", () => {
  test("is encoded, stepped, decoded, stored and finished, in that order", () => {
    const bench = new Bench();
    bench.assign(facts("a"));
    bench.workUntilIdle();
    const order = bench.effects.flatMap((effect) =>
      effect.kind === "run" ? [effect.task.kind] : effect.kind === "progress" ? [] : [effect.kind],
    );
    expect(order).toEqual([
      "started",
      "encode",
      "step",
      "step",
      "step",
      "decode",
      "store",
      "finished",
    ]);
  });

  test("is probed after its encoding where its previews need that, while its steps go on", () => {
    const bench = new Bench();
    bench.assign(facts("a", { needsProbe: true }));
    bench.workUntilIdle();
    const order = bench.effects.flatMap((e) => (e.kind === "run" ? [e.task.kind] : []));
    expect(order).toEqual(["encode", "step", "probe", "step", "step", "decode"]);
    expect(bench.kinds("a").at(-1)).toBe("finished");
  });

  test("that a runner dies under, in its probe, is probed again by itself, then blamed", () => {
    const bench = new Bench();
    bench.assign(facts("a", { needsProbe: true, steps: 9 }), facts("b", { steps: 9 }));
    while (bench.tasks[0]?.kind !== "probe") bench.work();
    // Whatever else was in flight may have killed it the first time.
    for (let death = 1; death <= 3; death++) {
      while (bench.tasks[0]?.kind !== "probe") bench.work();
      if (death > 1) expect(bench.tasks).toHaveLength(1);
      bench.fail("RUNNER_DIED");
    }
    expect(bench.kinds("a").at(-1)).toBe("failed");
    bench.workUntilIdle();
    expect(bench.kinds("a").at(-1)).toBe("failed");
    expect(bench.kinds("b").at(-1)).toBe("finished");
  });

  test("that is cancelled in its probe ends when the probe has come back", () => {
    const bench = new Bench();
    bench.assign(facts("a", { needsProbe: true }));
    while (bench.tasks[0]?.kind !== "probe") bench.work();
    bench.send({ kind: "revoked", id: "a", reason: "cancelled" });
    expect(bench.kinds("a")).not.toContain("released");
    bench.workUntilIdle();
    expect(bench.kinds("a").at(-1)).toBe("released");
  });

  test("goes on from the boundary it was given", () => {
    const bench = new Bench();
    bench.assign(facts("a", { units: [{ index: 0, step: 2 }] }));
    bench.workUntilIdle();
    const steps = bench.effects.filter((e) => e.kind === "run" && e.task.kind === "step");
    expect(steps).toHaveLength(1);
    expect(bench.kinds("a").at(-1)).toBe("finished");
  });

  test("counts the steps of all its images as progress", () => {
    const bench = new Bench();
    bench.assign(facts("a", { units: [0, 1].map((index) => ({ index, step: 0 })) }));
    bench.workUntilIdle();
    const last = bench.effects.findLast((effect) => effect.kind === "progress");
    expect(last).toMatchObject({ stepsDone: 6, stepsTotal: 6 });
  });
});

describe("a batch", () => {
  test("takes in a newcomer of the same shape after one step", () => {
    const bench = new Bench();
    bench.assign(facts("a"));
    bench.work(); // encode a
    bench.assign(facts("b"));
    expect(rowsOf(bench.work())).toEqual(["a"]); // was in flight when b came
    expect(bench.work()).toEqual({ kind: "encode", id: "b" });
    expect(rowsOf(bench.work())).toEqual(["a", "b"]);
  });

  test("never mixes shapes", () => {
    const bench = new Bench();
    bench.assign(facts("a"), facts("b", { shapeKey: "96x96" }));
    bench.workUntilIdle();
    for (const effect of bench.effects) {
      if (effect.kind !== "run") continue;
      expect(new Set(rowsOf(effect.task)).size).toBeLessThanOrEqual(1);
    }
    expect(bench.kinds("b").at(-1)).toBe("finished");
  });

  test("counts both passes of true guidance, and runs a unit that exceeds the limit", () => {
    const bench = new Bench();
    bench.assign(facts("a", { passes: 2 }), facts("b", { passes: 2 }), facts("c", { passes: 2 }));
    for (let i = 0; i < 5; i++) bench.work();
    const widest = bench.effects.flatMap((e) => (e.kind === "run" ? [rowsOf(e.task).length] : []));
    expect(Math.max(...widest)).toBe(2);
    const narrow = new Bench({ rowsMax: 1 });
    narrow.assign(facts("w", { passes: 2 }));
    narrow.work();
    expect(rowsOf(narrow.work())).toEqual(["w"]);
  });
});

describe("an end", () => {
  test("by cancel comes at the next boundary and leaves the mates alone", () => {
    const bench = new Bench();
    bench.assign(facts("a"), facts("b"));
    bench.work();
    bench.work();
    bench.work();
    bench.send({ kind: "revoked", id: "a", reason: "cancelled" });
    expect(bench.kinds("a")).not.toContain("released");
    bench.work();
    expect(bench.kinds("a").at(-1)).toBe("released");
    bench.workUntilIdle();
    expect(bench.kinds("b").at(-1)).toBe("finished");
  });

  test("by latents that are not finite fails that row only, and blames it", () => {
    const bench = new Bench();
    bench.assign(facts("a"), facts("b"));
    bench.work();
    bench.work();
    bench.work();
    expect(rowsOf(bench.work([{ id: "a", unit: 0 }]))).toEqual(["a", "b"]);
    const failed = bench.effects.find((effect) => effect.kind === "failed");
    expect(failed).toMatchObject({ id: "a", blamed: true });
    expect(failed).toHaveProperty("error.reason", "LATENTS_NOT_FINITE");
    bench.workUntilIdle();
    expect(bench.kinds("b").at(-1)).toBe("finished");
  });

  test("by a fence is silent", () => {
    const bench = new Bench();
    bench.assign(facts("a"));
    bench.send({ kind: "fenced", id: "a" });
    bench.work();
    expect(bench.kinds("a")).toEqual(["started", "progress", "dropped"]);
  });

  test("of a job that is not resident changes nothing", () => {
    const bench = new Bench();
    bench.send({ kind: "revoked", id: "nobody", reason: "cancelled" });
    expect(bench.effects).toEqual([]);
  });
});

describe("a runner that dies", () => {
  test("with mates makes each go on alone; only the one that kills it again is blamed", () => {
    const bench = new Bench();
    bench.assign(facts("good"), facts("poison"));
    bench.work();
    bench.work();
    bench.work();
    expect(rowsOf(bench.fail("RUNNER_DIED"))).toEqual(["good", "poison"]);
    for (let i = 0; i < 40 && bench.tasks.length > 0; i++) {
      const [task] = bench.tasks;
      if (task !== undefined && rowsOf(task).includes("poison")) bench.fail("RUNNER_DIED");
      else bench.work();
      for (const { id, unit } of bench.stores.splice(0)) bench.send({ kind: "stored", id, unit });
    }
    expect(bench.kinds("good").at(-1)).toBe("finished");
    const failed = bench.effects.find((effect) => effect.kind === "failed");
    expect(failed).toMatchObject({ id: "poison", blamed: true });
  });

  test("ends batches of a size under which the runner dies again and again", () => {
    const bench = new Bench();
    bench.assign(facts("a", { steps: 9 }), facts("b", { steps: 9 }));
    for (let i = 0; i < 3; i++) bench.work();
    for (let death = 0; death < 2; death++) {
      expect(rowsOf(bench.fail("RUNNER_DIED"))).toEqual(["a", "b"]);
      expect([1, 2].map(() => rowsOf(bench.work()))).toEqual([["a"], ["b"]]);
    }
    const batches = [1, 2].map(() => rowsOf(bench.work()));
    expect(batches.map(({ length }) => length)).toEqual([1, 1]);
  });

  test("makes no job run alone for longer than one step that succeeds", () => {
    const bench = new Bench();
    bench.assign(facts("a", { steps: 9 }), facts("b", { steps: 9 }));
    for (let i = 0; i < 3; i++) bench.work();
    expect(rowsOf(bench.fail("RUNNER_DIED"))).toEqual(["a", "b"]);
    const batches = [1, 2, 3].map(() => rowsOf(bench.work()));
    expect(batches).toEqual([["a"], ["b"], ["a", "b"]]);
  });

  test("and cannot be kept alive fails everyone, without blame", () => {
    const bench = new Bench();
    bench.assign(facts("a"), facts("b"));
    for (let i = 0; i < 3; i++) bench.work();
    bench.fail("RUNNER_BROKEN");
    const failed = bench.effects.filter((effect) => effect.kind === "failed");
    expect(failed.map(({ id, blamed }) => [id, blamed])).toEqual([
      ["a", false],
      ["b", false],
    ]);
  });

  test("once, under a single job, costs it nothing but the step", () => {
    const bench = new Bench();
    bench.assign(facts("a"));
    bench.work();
    bench.fail("RUNNER_DIED");
    bench.workUntilIdle();
    expect(bench.kinds("a").at(-1)).toBe("finished");
  });
});

describe("with several tasks in flight", () => {
  const pipeline: Partial<DriverLimits> = {
    stepsInFlightMax: 2,
    rowsMax: 2,
    devices: { step: [0, 1], encode: [0], decode: [1] },
  };

  /** Two steps of two rows each are in flight, and nothing else. */
  function twoSteps(): Bench {
    const bench = new Bench(pipeline);
    bench.assign(...["a", "b", "c", "d"].map((id) => facts(id, { steps: 9 })));
    const isFull = (): boolean =>
      bench.tasks.length === 2 && bench.tasks.every((task) => rowsOf(task).length === 2);
    for (let i = 0; i < 50 && !isFull(); i++) bench.work();
    expect(bench.tasks.flatMap(rowsOf).toSorted()).toEqual(["a", "b", "c", "d"]);
    return bench;
  }

  test("each row is in one of them", () => {
    const bench = twoSteps();
    for (let i = 0; i < 10; i++) {
      bench.work();
      const rows = bench.tasks.flatMap(rowsOf);
      expect(new Set(rows).size).toBe(rows.length);
    }
  });

  test.each<[string, DriverInput, string]>([
    ["a cancel", { kind: "revoked", id: "a", reason: "cancelled" }, "released"],
    ["a preemption", { kind: "revoked", id: "a", reason: "preempted" }, "released"],
    ["a fence", { kind: "fenced", id: "a" }, "dropped"],
  ])("%s of a row in flight ends it at its boundary, and touches no mate", (_, input, end) => {
    const bench = twoSteps();
    bench.send(input);
    expect(bench.tasks.flatMap(rowsOf)).toContain("a");
    expect(bench.kinds("a")).not.toContain(end);
    while (bench.tasks.flatMap(rowsOf).includes("a")) bench.work();
    expect(bench.kinds("a").at(-1)).toBe(end);
    bench.workUntilIdle();
    for (const id of ["b", "c", "d"]) expect(bench.kinds(id).at(-1)).toBe("finished");
    const failed = bench.effects.filter(({ kind }) => kind === "failed");
    expect(failed).toEqual([]);
  });

  test("a row that is poisoned while another step is in flight fails by itself", () => {
    const bench = twoSteps();
    const [poisoned] = rowsOf(bench.tasks[0]!);
    bench.work([{ id: poisoned!, unit: 0 }]);
    expect(bench.kinds(poisoned!).at(-1)).toBe("failed");
    bench.workUntilIdle();
    for (const id of ["a", "b", "c", "d"]) {
      if (id !== poisoned) expect(bench.kinds(id).at(-1)).toBe("finished");
    }
  });

  test("a death under both makes all suspects: one at a time, with nothing beside it", () => {
    const bench = twoSteps();
    bench.fail("RUNNER_DIED");
    bench.fail("RUNNER_DIED");
    const alone: string[][] = [];
    for (let i = 0; i < 4; i++) {
      expect(bench.tasks).toHaveLength(1);
      alone.push(rowsOf(bench.work()));
    }
    expect(alone.flat().toSorted()).toEqual(["a", "b", "c", "d"]);
    expect(bench.tasks).toHaveLength(2);
    bench.workUntilIdle();
    for (const id of ["a", "b", "c", "d"]) expect(bench.kinds(id).at(-1)).toBe("finished");
  });

  test("one poisonous image of a job is found although its other images are sound", () => {
    const bench = new Bench(pipeline);
    const units = [0, 1, 2].map((index) => ({ index, step: 0 }));
    bench.assign(facts("mixed", { units, steps: 9 }), facts("mate", { steps: 9 }));
    const isPoisoned = (task: Task): boolean =>
      task.kind === "step" && task.rows.some(({ id, unit }) => id === "mixed" && unit === 1);
    let deaths = 0;
    for (let i = 0; i < 200 && bench.tasks.length > 0; i++) {
      if (bench.tasks.some(isPoisoned)) {
        deaths += 1;
        for (let n = bench.tasks.length; n > 0; n--) bench.fail("RUNNER_DIED");
      } else bench.work();
      for (const { id, unit } of bench.stores.splice(0)) bench.send({ kind: "stored", id, unit });
    }
    expect(deaths).toBe(3);
    const failed = bench.effects.filter(({ kind }) => kind === "failed");
    expect(failed).toMatchObject([{ id: "mixed", blamed: true }]);
    expect(bench.kinds("mate").at(-1)).toBe("finished");
  });

  test("a step that was lost on its way suspects nobody", () => {
    const bench = twoSteps();
    const before = bench.tasks.map(rowsOf);
    bench.fail("STAGE_LOST");
    bench.fail("STAGE_LOST");
    expect(bench.tasks.map(rowsOf).flat().toSorted()).toEqual(before.flat().toSorted());
    expect(bench.tasks).toHaveLength(2);
  });

  test("encodings and decodes take their devices one at a time, and steps come between them", () => {
    const bench = new Bench({ ...pipeline, stepsInFlightMax: 1 });
    bench.assign(...["a", "b", "c", "d"].map((id) => facts(id, { steps: 30 })));
    const order: string[] = [];
    for (let i = 0; i < 20; i++) order.push(bench.work().kind);
    // As long as a row could step, no encoding followed another.
    const encodings = order.flatMap((kind, i) => (kind === "encode" ? [i] : []));
    expect(encodings).toHaveLength(4);
    for (const at of encodings.slice(1)) expect(order[at - 1]).toBe("step");
  });

  test("what is off the pipeline waits for no step", () => {
    const devices = { step: [0], encode: [0], decode: [1] };
    const bench = new Bench({ devices });
    bench.assign(facts("long", { steps: 90 }), facts("short", { steps: 1 }));
    while (!bench.tasks.some(({ kind }) => kind === "decode")) bench.work();
    expect(bench.tasks.some(({ kind }) => kind === "step")).toBe(true);
  });
});

test("a batch that fails without a death is not formed again", () => {
  const bench = new Bench();
  bench.assign(facts("a"), facts("b"));
  for (let i = 0; i < 3; i++) bench.work();
  bench.fail("GRAPH_FAILED");
  while (bench.tasks.length > 0) expect(rowsOf(bench.work()).length).toBeLessThanOrEqual(1);
});

test("a store that fails ends the job with the reason, without blame", () => {
  const bench = new Bench();
  bench.assign(facts("a"));
  while (bench.stores.length === 0) bench.work();
  bench.send({ kind: "store-failed", id: "a", unit: 0, error: failure("DISK_FULL") });
  expect(bench.effects.at(-1)).toMatchObject({ kind: "failed", blamed: false });
});

test("a drain releases everyone at the boundary, refuses newcomers, and says when it is done", () => {
  const bench = new Bench();
  bench.assign(facts("a"), facts("b"));
  bench.work();
  bench.send({ kind: "drain" });
  expect(bench.driver.admission("c", 1)).toBe("draining");
  while (bench.tasks.length > 0) bench.work();
  expect(bench.kinds("a").at(-1)).toBe("released");
  expect(bench.kinds("b").at(-1)).toBe("released");
  expect(bench.effects.at(-1)).toEqual({ kind: "drained" });
});

test("a group refuses more residents than it has places for", () => {
  const driver = new Driver({ ...LIMITS, residentsMax: 1 });
  driver.step({ kind: "assigned", job: facts("a") }, 0);
  expect(driver.admission("b", 1)).toBe("full");
  expect(driver.admission("a", 1)).toBe("resident");
});

test("places are counted in images, and a job with more than there are fills an empty group", () => {
  const driver = new Driver({ ...LIMITS, residentsMax: 3 });
  expect(driver.admission("huge", 9)).toBe("accepted");
  const units = [0, 1].map((index) => ({ index, step: 0 }));
  driver.step({ kind: "assigned", job: facts("two", { units }) }, 0);
  expect(driver.admission("b", 1)).toBe("accepted");
  expect(driver.admission("b", 2)).toBe("full");
});
