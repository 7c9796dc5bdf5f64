import { describe, expect, test } from "vitest";
import type { JobFacts } from "@fluxline/gpu-node/core/driver.ts";
import type { Task } from "@fluxline/gpu-node/core/step-batcher.ts";
import { RequestBatching, type RequestBatchLimits } from "./request-batching.ts";
import { NUDGE } from "./serving-policy.ts";

const NO_WAIT = { batchMax: 4, waitMsMax: 0 };

function facts(id: string, steps: number, change: Partial<JobFacts> = {}): JobFacts {
  return {
    id,
    shapeKey: "small",
    steps,
    passes: 1,
    units: [{ index: 0, step: 0 }],
    alone: false,
    tenant: "default",
    share: 1,
    priorityClass: "standard",
    ...change,
  };
}

/** Keeps what the policy says, in short: "encode a", "step a b", "decode a", "end a". */
class Bench {
  readonly policy: RequestBatching;
  readonly said: string[] = [];
  task: Task | undefined;

  constructor(limits: RequestBatchLimits) {
    this.policy = new RequestBatching(limits);
  }

  send(input: Parameters<RequestBatching["step"]>[0], nowMs = 0): void {
    for (const effect of this.policy.step(input, nowMs)) {
      if (effect.kind === "run") {
        expect(this.task).toBeUndefined();
        this.task = effect.task;
        this.said.push(inShort(effect.task));
      } else if (effect.kind === "store") {
        this.send({ kind: "stored", id: effect.id, unit: effect.unit }, nowMs);
      } else if (effect.kind === "finished") this.said.push(`end ${effect.id}`);
    }
  }

  assign(job: JobFacts, nowMs = 0): void {
    this.send({ kind: "assigned", job }, nowMs);
  }

  work(nowMs = 0): void {
    const { task } = this;
    if (task === undefined) throw new Error("nothing is in flight");
    this.task = undefined;
    this.send({ kind: "task-done", task }, nowMs);
  }

  workUntilIdle(nowMs = 0): void {
    while (this.task !== undefined) this.work(nowMs);
  }

  steps(): string[] {
    return this.said.filter((words) => words.startsWith("step"));
  }
}

function inShort(task: Task): string {
  const ids = task.kind === "step" ? task.rows.map((row) => row.id) : [task.id];
  return [task.kind, ...ids].join(" ");
}

/** With `first` on the device while `others` arrive: they are the next batches. */
function afterFirst(limits: RequestBatchLimits, others: readonly JobFacts[]): Bench {
  const bench = new Bench(limits);
  bench.assign(facts("first", 1));
  for (const job of others) bench.assign(job);
  bench.workUntilIdle();
  return bench;
}

describe("a batch", () => {
  test("of one is encoded, stepped, decoded and answered", () => {
    const bench = new Bench({ ...NO_WAIT, grouping: "equal-steps" });
    bench.assign(facts("a", 2));
    bench.workUntilIdle();
    expect(bench.said).toEqual(["encode a", "step a", "step a", "decode a", "end a"]);
    expect(bench.policy.residents()).toEqual([]);
  });

  test("is joined by nobody until it has ended", () => {
    const bench = afterFirst({ ...NO_WAIT, grouping: "longest" }, [facts("a", 1), facts("b", 1)]);
    expect(bench.said.indexOf("end first")).toBeLessThan(bench.said.indexOf("encode a"));
    expect(bench.steps()).toEqual(["step first", "step a b"]);
  });

  test("has at most so many members, and only of one size", () => {
    const others = ["a", "b", "c", "d", "e"].map((id) => facts(id, 1));
    const large = facts("large", 1, { shapeKey: "large" });
    const bench = afterFirst({ ...NO_WAIT, grouping: "longest" }, [large, ...others]);
    expect(bench.steps()).toEqual(["step first", "step large", "step a b c d", "step e"]);
  });

  test("of at most one is first come, first served", () => {
    const limits = { grouping: "longest", batchMax: 1, waitMsMax: 0 } as const;
    const bench = afterFirst(limits, [facts("a", 2), facts("b", 1), facts("c", 1)]);
    const ends = bench.said.filter((words) => words.startsWith("end"));
    expect(ends).toEqual(["end first", "end a", "end b", "end c"]);
  });
});

describe("different steps", () => {
  const others = [facts("a", 1), facts("b", 3), facts("c", 1)];

  test("do not share a batch where steps must be equal", () => {
    const bench = afterFirst({ ...NO_WAIT, grouping: "equal-steps" }, others);
    expect(bench.steps()).toEqual(["step first", "step a c", "step b", "step b", "step b"]);
  });

  test("are padded to the longest, and all are answered at its end", () => {
    const bench = afterFirst({ ...NO_WAIT, grouping: "longest" }, others);
    expect(bench.steps()).toEqual(["step first", "step a b c", "step a b c", "step a b c"]);
    expect(bench.said.indexOf("decode a")).toBeGreaterThan(bench.said.lastIndexOf("step a b c"));
  });

  test("let those go who are done, in the kinder form", () => {
    const bench = afterFirst({ ...NO_WAIT, grouping: "leaving" }, others);
    expect(bench.steps()).toEqual(["step first", "step a b c", "step b", "step b"]);
    expect(bench.said.indexOf("end c")).toBeLessThan(bench.said.indexOf("step b"));
  });
});

describe("waiting for mates", () => {
  const limits = { grouping: "longest", batchMax: 2, waitMsMax: 10 } as const;

  test("ends when the batch is full", () => {
    const bench = new Bench(limits);
    bench.assign(facts("a", 1), 0);
    expect(bench.policy.wakeMs).toBe(10);
    bench.assign(facts("b", 1), 4);
    bench.workUntilIdle(4);
    expect(bench.steps()).toEqual(["step a b"]);
    expect(bench.policy.wakeMs).toBeUndefined();
  });

  test("ends when the oldest has waited long enough", () => {
    const bench = new Bench(limits);
    bench.assign(facts("a", 1), 0);
    bench.send(NUDGE, 9);
    expect(bench.said).toEqual([]);
    bench.send(NUDGE, 10);
    bench.workUntilIdle(10);
    expect(bench.steps()).toEqual(["step a"]);
  });
});

test("what is late already waits behind all others, if told so", () => {
  const limits = { grouping: "longest", batchMax: 1, waitMsMax: 0 } as const;
  const bench = new Bench({ ...limits, lateLast: ({ steps }) => steps });
  bench.assign(facts("first", 1));
  bench.assign(facts("late", 8, { deadlineMs: 7 }));
  bench.assign(facts("a", 1, { deadlineMs: 50 }));
  bench.workUntilIdle();
  const ends = bench.said.filter((words) => words.startsWith("end"));
  expect(ends).toEqual(["end first", "end a", "end late"]);
});
