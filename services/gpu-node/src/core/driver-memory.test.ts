/** The driver when the device runs out of memory. */
import { describe, expect, test } from "vitest";
import type { JobFacts } from "./driver.ts";
import { Bench, facts, failure, rowsOf } from "./driver-bench.ts";
import type { Task } from "./step-batcher.ts";

describe("memory that runs out", () => {
  const four = ["a", "b", "c", "d"];

  /** A step of all four is in flight. */
  function stepOfFour(change: Partial<JobFacts> = {}): Bench {
    const bench = new Bench();
    bench.assign(...four.map((id) => facts(id, { steps: 30, ...change })));
    while (rowsOf(bench.tasks[0]!).length < 4) bench.work();
    return bench;
  }

  test("halves the batch; its rows go on from where they were, and nobody is failed", () => {
    const bench = stepOfFour();
    const before = bench.driver.residents();
    bench.fail("DEVICE_OUT_OF_MEMORY");
    expect(bench.driver.residents()).toEqual(before);
    expect(rowsOf(bench.work())).toEqual(["a", "b"]);
    bench.workUntilIdle();
    for (const id of four) expect(bench.kinds(id).at(-1)).toBe("finished");
    expect(bench.effects.filter(({ kind }) => kind === "failed")).toEqual([]);
  });

  test("halves it again, down to single rows", () => {
    const bench = stepOfFour();
    expect(rowsOf(bench.fail("DEVICE_OUT_OF_MEMORY"))).toHaveLength(4);
    expect(rowsOf(bench.fail("DEVICE_OUT_OF_MEMORY"))).toHaveLength(2);
    for (let i = 0; i < 8; i++) expect(rowsOf(bench.work())).toHaveLength(1);
  });

  test("halves a batch of one request's own images", () => {
    const bench = new Bench();
    bench.assign(facts("a", { units: [0, 1, 2, 3].map((index) => ({ index, step: 0 })) }));
    bench.work();
    expect(rowsOf(bench.fail("DEVICE_OUT_OF_MEMORY"))).toHaveLength(4);
    expect(rowsOf(bench.work())).toHaveLength(2);
    bench.workUntilIdle();
    expect(bench.kinds("a").at(-1)).toBe("finished");
  });

  test("keeps newcomers from batches of that size, until it is tried again after a while", () => {
    const bench = stepOfFour({ steps: 400 });
    bench.fail("DEVICE_OUT_OF_MEMORY");
    bench.assign(...["e", "f", "g", "h"].map((id) => facts(id, { steps: 400 })));
    let batches = 0;
    for (let rows = 0; rows < 4; rows = rowsOf(bench.work([], 1)).length) {
      if (rows > 0) batches += 1;
      for (const { id, unit } of bench.stores.splice(0)) bench.send({ kind: "stored", id, unit });
    }
    expect(batches).toBe(512);
  });

  test.each<[string, Partial<JobFacts>]>([
    ["one row", {}],
    ["one image with its two passes", { passes: 2 }],
  ])("under %s is the request's own failure", (_, change) => {
    const bench = new Bench();
    bench.assign(facts("a", change));
    bench.work();
    bench.fail("DEVICE_OUT_OF_MEMORY");
    expect(bench.effects.at(-1)).toMatchObject({
      kind: "failed",
      blamed: true,
      error: { reason: "DEVICE_OUT_OF_MEMORY" },
    });
    expect(bench.tasks).toEqual([]);
  });

  test.each<Task["kind"]>(["encode", "probe", "decode"])(
    "in one job's %s is that job's failure, at once, and the other goes on",
    (kind) => {
      const bench = new Bench();
      bench.assign(facts("a", { needsProbe: true }), facts("b"));
      const isIt = (task: Task | undefined): boolean =>
        task?.kind === kind && "id" in task && task.id === "a";
      while (!isIt(bench.tasks[0])) bench.work();
      bench.fail("DEVICE_OUT_OF_MEMORY");
      bench.workUntilIdle();
      expect(bench.kinds("a").at(-1)).toBe("failed");
      expect(bench.kinds("b").at(-1)).toBe("finished");
    },
  );

  test("while a graph is loaded for its use fails the job without blame", () => {
    const bench = new Bench();
    bench.assign(facts("a"));
    const [task] = bench.tasks;
    bench.send({
      kind: "task-failed",
      task: task!,
      error: failure("DEVICE_OUT_OF_MEMORY", true),
    });
    expect(bench.effects.at(-1)).toMatchObject({ kind: "failed", blamed: false });
  });

  test("is not put to the test where it is known what fits", () => {
    const bench = new Bench();
    bench.assign(...four.map((id) => facts(id, { rowsMax: 3, steps: 30 })));
    const widest = (): number =>
      Math.max(...bench.effects.map((e) => (e.kind === "run" ? rowsOf(e.task).length : 0)));
    bench.workUntilIdle();
    expect(widest()).toBe(3);
  });
});
