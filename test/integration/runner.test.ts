/**
 * The runner process as a driver sees it: graphs and tensors in, tensors out, over a real child
 * process with onnxruntime in it, killed and restarted for real.
 */
import { afterEach, describe, expect, test } from "vitest";
import { readdirSync, readFileSync } from "node:fs";
import type { AppError } from "@fluxline/kernel/error.ts";
import { DeviceRunner } from "@fluxline/gpu-node/adapters/runner/device-runner.ts";
import type { RunnerArguments } from "@fluxline/gpu-node/adapters/runner/arguments.ts";
import type { Graph } from "@fluxline/gpu-node/core/image-model.ts";
import { float32Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { GraphBuilder } from "@fluxline/gpu-node/onnx/graph-builder.ts";

const CPU: RunnerArguments = { provider: "cpu", threads: 1 };

/** sum = left + right, row by row. */
function sumGraph(): Graph {
  const build = new GraphBuilder("sum");
  const left = build.input("left", "float32", ["B", 2]);
  const right = build.input("right", "float32", ["B", 2]);
  build.node("sum", "Add", [left, right]);
  build.output("sum", "float32", ["B", 2]);
  return toGraph(build.graph);
}

/** A product of a square matrix with itself, again and again: long enough to be killed in. */
function slowGraph(): Graph {
  const build = new GraphBuilder("slow");
  let value = build.input("left", "float32", ["B", "B"]);
  for (let i = 0; i < 60; i++) value = build.node(`power.${i}`, "MatMul", [value, "left"]);
  build.output(value, "float32", ["B", "B"]);
  return toGraph(build.graph);
}

const rows = (...values: number[]) =>
  float32Tensor(Float32Array.from(values), [values.length / 2, 2]);
const running: DeviceRunner[] = [];

async function started(
  graphs: Graph[],
  device: RunnerArguments = CPU,
): Promise<{ runner: DeviceRunner; pid: () => number; broken: AppError[] }> {
  let pid = 0;
  const broken: AppError[] = [];
  const runner = new DeviceRunner({
    device,
    graphs,
    environment: process.env,
    log: (message, facts) => {
      if (message === "runner ready") pid = Number(facts["pid"]);
    },
    onBroken: (error) => broken.push(error),
  });
  running.push(runner);
  await runner.start();
  return { runner, pid: () => pid, broken };
}

const alive = (pid: number): boolean => readdirSync("/proc").includes(String(pid));

afterEach(async () => {
  await Promise.all(running.splice(0).map((runner) => runner.stop()));
});

async function sum(runner: DeviceRunner, left: number[], key: string): Promise<number[]> {
  const { tensors } = await runner.run({
    graph: "sum",
    inputs: {
      left: [{ tensor: rows(...left) }],
      right: Array.from({ length: left.length / 2 }, () => ({ key, name: "right" })),
    },
    outputs: ["sum"],
  });
  return [...(tensors["sum"]!.data as Float32Array)];
}

describe("a runner", () => {
  test("lays rows behind one another, sent and retained ones alike", async () => {
    const { runner } = await started([sumGraph()]);
    runner.retain("ten", { right: rows(10, 20) });
    expect(await sum(runner, [1, 2, 3, 4], "ten")).toEqual([11, 22, 13, 24]);
  });

  test("answers a bad call with its reason and goes on", async () => {
    const { runner } = await started([sumGraph()]);
    await expect(sum(runner, [1, 2], "nothing")).rejects.toMatchObject({
      code: "failed_precondition",
      message: expect.stringContaining("right of nothing is not retained"),
    });
    runner.retain("ten", { right: rows(10, 20) });
    expect(await sum(runner, [1, 2], "ten")).toEqual([11, 22]);
  });

  test("killed in mid-call fails that call, comes back, and still has what was retained", async () => {
    const { runner, pid } = await started([sumGraph(), slowGraph()]);
    runner.retain("ten", { right: rows(10, 20) });
    const side = 700;
    const matrix = float32Tensor(new Float32Array(side * side).fill(1e-3), [side, side]);
    const outputs = [slowGraph().outputs[0]!.name];
    const call = runner.run({ graph: "slow", inputs: { left: [{ tensor: matrix }] }, outputs });
    const first = pid();
    setTimeout(() => process.kill(first, "SIGKILL"), 100);
    await expect(call).rejects.toMatchObject({ reason: "RUNNER_DIED", retryable: true });
    expect(await sum(runner, [1, 2], "ten")).toEqual([11, 22]);
    expect(pid()).not.toBe(first);
    expect(runner.restarts).toBe(1);
  });

  test("that is released of a tensor does not have it after a restart either", async () => {
    const { runner, pid } = await started([sumGraph()]);
    runner.retain("ten", { right: rows(10, 20) });
    runner.release("ten");
    process.kill(pid(), "SIGKILL");
    await expect.poll(() => runner.restarts).toBe(1);
    await expect(sum(runner, [1, 2], "ten")).rejects.toMatchObject({ code: "failed_precondition" });
  });

  test("leaves no process behind when it is stopped", async () => {
    const { runner, pid } = await started([sumGraph()]);
    const child = pid();
    expect(readFileSync(`/proc/${child}/cmdline`, "utf8")).toContain("fluxline gpu-node runner");
    await runner.stop();
    expect(alive(child)).toBe(false);
  });

  test("stopped while it waits to be started again is not started again", async () => {
    const { runner, pid } = await started([sumGraph()]);
    const first = pid();
    process.kill(first, "SIGKILL");
    await expect.poll(() => runner.restarts).toBe(1);
    await runner.stop();
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(alive(pid())).toBe(false);
  });

  test("refuses a graph that onnxruntime cannot load, by name", async () => {
    const broken: Graph = { ...sumGraph(), onnx: new Uint8Array([1, 2, 3]) };
    await expect(started([broken])).rejects.toMatchObject({
      reason: "GRAPH_NOT_LOADED",
      message: expect.stringContaining("sum"),
    });
  });

  test("that dies at every start is given up, with the last reason", async () => {
    const { runner, pid, broken } = await started([sumGraph()]);
    for (let deaths = 0; deaths < 6; deaths++) {
      await expect.poll(() => runner.ready && alive(pid()), { timeout: 10_000 }).toBe(true);
      const victim = pid();
      process.kill(victim, "SIGKILL");
      await expect
        .poll(() => broken.length > 0 || pid() !== victim, { timeout: 10_000 })
        .toBe(true);
    }
    expect(broken[0]?.reason).toBe("RUNNER_BROKEN");
    await expect(sum(runner, [1, 2], "ten")).rejects.toMatchObject({ reason: "RUNNER_BROKEN" });
  });
});

test("a simulated device says that it is one, and gives tensors of the right shape", async () => {
  const cost = { baseSeconds: 0, rowSeconds: 0 };
  const { runner } = await started([sumGraph()], {
    provider: "simulated",
    simulatedCosts: { default: cost },
  });
  runner.retain("ten", { right: rows(10, 20) });
  expect(await sum(runner, [1, 2, 3, 4], "ten")).toEqual([0, 0, 0, 0]);
});
