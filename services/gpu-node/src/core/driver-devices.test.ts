/** The driver while ranks of its group cannot be reached. */
import { expect, test } from "vitest";
import { Driver, type DriverEffect, type DriverInput, type JobFacts } from "./driver.ts";
import { ONE_DEVICE, type Task } from "./step-batcher.ts";

const LOST = {
  code: "unavailable" as const,
  reason: "STAGE_LOST",
  message: "rank 1 was lost",
  retryable: true,
  violations: [],
  details: {},
};

function facts(id: string): JobFacts {
  const units = [{ index: 0, step: 0 }];
  const terms = { tenant: "t", share: 1, priorityClass: "standard", alone: false } as const;
  return { ...terms, id, shapeKey: "64x64", steps: 3, passes: 1, units };
}

class Bench {
  readonly driver = new Driver({
    rowsMax: 4,
    residentsMax: 8,
    batching: "full",
    stepsInFlightMax: 1,
    devices: ONE_DEVICE,
  });
  readonly effects: DriverEffect[] = [];
  flying: Task[] = [];

  send(input: DriverInput): void {
    const effects = this.driver.step(input, 0);
    this.effects.push(...effects);
    this.flying.push(...effects.flatMap((e) => (e.kind === "run" ? [e.task] : [])));
    for (const effect of effects) {
      if (effect.kind === "store") this.send({ kind: "stored", id: effect.id, unit: effect.unit });
    }
  }

  land(outcome: "done" | "lost"): void {
    const task = this.flying.shift()!;
    if (outcome === "done") this.send({ kind: "task-done", task });
    else this.send({ kind: "task-failed", task, error: LOST });
  }

  /** Assigns the jobs and goes on until a step with all of them is in flight. */
  stepTogether(...ids: string[]): void {
    for (const id of ids) this.send({ kind: "assigned", job: facts(id) });
    const isShared = (task: Task | undefined): boolean =>
      task?.kind === "step" && task.rows.length === ids.length;
    for (let i = 0; i < 20 && !isShared(this.flying[0]); i++) this.land("done");
    expect(this.flying).toHaveLength(1);
  }

  endOf(id: string): DriverEffect | undefined {
    const ends = ["finished", "failed", "released", "dropped"];
    return this.effects.find((e) => ends.includes(e.kind) && "id" in e && e.id === id);
  }
}

test("a step that was lost is run again with all its rows, whole or broken, and blames nobody", () => {
  const bench = new Bench();
  bench.stepTogether("a", "b");
  const [task] = bench.flying;
  for (let i = 0; i < 5; i++) bench.land("lost");
  expect(bench.flying).toEqual([task]);
  while (bench.flying.length > 0) bench.land("done");
  expect(bench.endOf("a")?.kind).toBe("finished");
  expect(bench.endOf("b")?.kind).toBe("finished");
});

test("while a rank is lost nothing begins, and a job can be let go at once", () => {
  const bench = new Bench();
  bench.stepTogether("a", "b");
  bench.send({ kind: "devices", state: "broken" });
  bench.land("lost");
  expect(bench.flying).toEqual([]);
  bench.send({ kind: "revoked", id: "b", reason: "preempted" });
  expect(bench.endOf("b")).toMatchObject({ kind: "released", reason: "preempted" });
  expect(bench.driver.admission("c", 1)).toBe("accepted");
  bench.send({ kind: "devices", state: "whole" });
  expect(bench.flying).toMatchObject([{ kind: "step", rows: [{ id: "a" }] }]);
});

test("when it stays away everybody is handed back, and newcomers are taken when it is back", () => {
  const bench = new Bench();
  bench.stepTogether("a", "b");
  bench.send({ kind: "devices", state: "broken" });
  bench.land("lost");
  bench.send({ kind: "devices", state: "away" });
  expect(bench.endOf("a")).toMatchObject({ kind: "released", reason: "drained" });
  expect(bench.endOf("b")).toMatchObject({ kind: "released", reason: "drained" });
  expect(bench.driver.admission("c", 1)).toBe("full");
  bench.send({ kind: "devices", state: "whole" });
  expect(bench.driver.admission("c", 1)).toBe("accepted");
  bench.stepTogether("c");
  while (bench.flying.length > 0) bench.land("done");
  expect(bench.endOf("c")?.kind).toBe("finished");
});
