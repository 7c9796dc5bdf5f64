import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import { afterAll, describe, expect, test } from "vitest";
import { float32Tensor, int64Tensor } from "../core/tensor.ts";
import { toGraph } from "../models/graph.ts";
import { GraphBuilder } from "../onnx/graph-builder.ts";
import { isOutOfMemory, openSession } from "./onnx-session.ts";
import { listProviders } from "./provider-list.ts";

const folder = mkdtempSync(join(tmpdir(), "onnx-session-"));
afterAll(() => rmSync(folder, { recursive: true }));

const CPU = { provider: "cpu", threads: 1 } as const;
const vector = (...values: number[]) => float32Tensor(Float32Array.from(values), [values.length]);

function scaleGraph(file: string) {
  const build = new GraphBuilder("scale");
  const x = build.input("x", "float32", ["n"]);
  const weight = build.external("w", "float32", [1], { file, offset: 4, length: 4 });
  build.node("y", "Mul", [x, weight]);
  build.node("z", "Neg", ["y"]);
  build.output("y", "float32", ["n"]);
  build.output("z", "float32", ["n"]);
  return toGraph(build.graph);
}

async function failure(run: Promise<unknown>): Promise<AppError> {
  const thrown = await run.then(
    () => new Error("nothing was wrong"),
    (error: unknown) => error,
  );
  if (thrown instanceof AppError) return thrown;
  throw thrown;
}

test.each<[string, boolean]>([
  ["BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1", true],
  ["std::bad_alloc", true],
  ["CUDA error cudaErrorMemoryAllocation:out of memory", true],
  ["CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", true],
  ["CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED", true],
  ["CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED", false],
  ["Got invalid dimensions for input: x", false],
])("%s: out of memory is %s", (message, is) => {
  expect(isOutOfMemory(message)).toBe(is);
});

describe("a session", () => {
  const file = join(folder, "weights.bin");
  writeFileSync(file, Buffer.from(Float32Array.of(0, 3).buffer));

  test("runs its graph, all outputs or some", async () => {
    const session = await openSession(scaleGraph(file), CPU);
    const all = await session.run({ x: vector(1, 2) });
    expect(all).toEqual({ y: vector(3, 6), z: vector(-3, -6) });
    expect(await session.run({ x: vector(1), unused: vector(9) }, ["z"])).toEqual({
      z: vector(-3),
    });
    await session.close();
  });

  test("takes and gives float16 as bits", async () => {
    const build = new GraphBuilder("half");
    const x = build.input("x", "float16", ["n"]);
    build.node("y", "Neg", [x]);
    build.output("y", "float16", ["n"]);
    const session = await openSession(toGraph(build.graph), CPU);
    const data = Uint16Array.of(0, 0x3c00, 0x4000); // one value that is not at the buffer's start
    const given = { type: "float16", dims: [2], data: data.subarray(1) } as const;
    const { y } = await session.run({ x: given });
    expect(y).toEqual({ type: "float16", dims: [2], data: Uint16Array.of(0xbc00, 0xc000) });
    await session.close();
  });

  test("names graph and input that is missing or of the wrong type", async () => {
    const session = await openSession(scaleGraph(file), CPU);
    expect((await failure(session.run({ y: vector(1) }))).message).toBe(
      "scale: input x is missing (given: y)",
    );
    expect((await failure(session.run({ x: int64Tensor([1], [1]) }))).message).toContain(
      "scale: input x is int64, not float32",
    );
    await session.close();
  });

  test.for<[string, () => string]>([
    ["a file of weights that is gone", () => join(folder, "gone.bin")],
    [
      "a file of weights that is too short",
      () => {
        const short = join(folder, "short.bin");
        writeFileSync(short, Buffer.from(Float32Array.of(0, 3).buffer));
        truncateSync(short, 6);
        return short;
      },
    ],
  ])("refuses %s with the graph's name", async ([, makeFile]) => {
    const error = await failure(openSession(scaleGraph(makeFile()), CPU));
    expect(error.reason).toBe("GRAPH_NOT_LOADED");
    expect(error.message).toContain("scale on cpu: ");
    expect(error.details).toEqual({ graph: "scale", provider: "cpu" });
  });

  test("says which type the provider cannot compute", async () => {
    const build = new GraphBuilder("brain");
    const x = build.input("x", "float32", [1]);
    const brain = build.cast("brain", x, "float32", "bfloat16");
    build.cast("y", build.node("sum", "Add", [brain, brain]), "bfloat16", "float32");
    build.output("y", "float32", [1]);
    const error = await failure(openSession(toGraph(build.graph), CPU));
    expect(error.code).toBe("unimplemented");
    expect(error.message).toContain("sum");
    expect(error.message).toContain("another run type or provider");
  });
});

test("lists every provider, and the CPU as one that works", async () => {
  const providers = await listProviders();
  expect(providers.map(({ name }) => name)).toEqual(["cpu", "cuda", "tensorrt", "webgpu"]);
  expect(providers[0]).toMatchObject({ name: "cpu", available: true });
  expect(providers[0]?.detail).toMatch(/\d+ cores$/);
  for (const { available, detail } of providers) {
    if (!available) expect(detail).toMatch(/; it needs |not in this build/);
  }
});
