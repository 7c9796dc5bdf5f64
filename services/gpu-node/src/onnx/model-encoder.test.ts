/** The encoding is right when the runtime reads from it what was meant. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, expect, test } from "vitest";
import { node } from "./graph.ts";
import { GraphBuilder } from "./graph-builder.ts";
import { encodeModel } from "./model-encoder.ts";
import { ProtobufWriter } from "./protobuf-writer.ts";

const folder = mkdtempSync(join(tmpdir(), "model-encoder-"));
afterAll(() => rmSync(folder, { recursive: true }));

const OPTIONS: InferenceSession.SessionOptions = {
  extra: { session: { model_external_initializers_file_folder_path: "/" } },
};

async function run(build: GraphBuilder, values: readonly number[]): Promise<Tensor> {
  const session = await InferenceSession.create(encodeModel(build.graph), OPTIONS);
  const result = await session.run({ x: new Tensor("float32", values, [1, values.length]) });
  await session.release();
  return result["y"]!;
}

test.for<[string, number, number[]]>([
  ["zero", 0, [0x08, 0x00]],
  ["one byte", 127, [0x08, 0x7f]],
  ["two bytes", 300, [0x08, 0xac, 0x02]],
  ["31 bits", 0x7fffffff, [0x08, 0xff, 0xff, 0xff, 0xff, 0x07]],
  ["32 bits", 0x80000000, [0x08, 0x80, 0x80, 0x80, 0x80, 0x08]],
  ["beyond 32 bits", 2 ** 40, [0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20]],
  ["minus one", -1, [0x08, ...Array.from({ length: 9 }, () => 0xff), 0x01]],
])("a varint of %s", ([, value, bytes]) => {
  const writer = new ProtobufWriter();
  writer.int(1, value);
  expect([...writer.finish()]).toEqual(bytes);
});

test("attributes of every kind reach their operator", async () => {
  const build = new GraphBuilder("attributes");
  const x = build.input("x", "float32", [1, "n"]);
  const normed = build.node("normed", "LayerNormalization", [x, build.filled("float32", 2, 3)], {
    axis: { int: -1 },
    epsilon: { float: 0.25 },
  });
  const gelu = build.node("gelu", "Gelu", [normed], { approximate: { string: "tanh" } });
  build.node("y", "Transpose", [gelu], { perm: { ints: [1, 0] } });
  build.output("y", "float32", ["n", 1]);
  const result = await run(build, [1, 2, 3]);
  expect(result.dims).toEqual([3, 1]);
  const deviation = Math.sqrt(2 / 3 + 0.25);
  const expected = [-1, 0, 1].map((value) => {
    const u = (2 * value) / deviation;
    return 0.5 * u * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (u + 0.044715 * u ** 3)));
  });
  for (const [i, value] of expected.entries()) expect(result.data[i]).toBeCloseTo(value, 6);
});

test("weights are read from their place in a file, in every float type", async () => {
  const file = join(folder, "weights with a space.bin");
  const bytes = new Uint8Array(100);
  const view = new DataView(bytes.buffer);
  view.setFloat32(13, 1.5, true); // at any offset, aligned or not
  view.setUint16(31, 0x4000, true); // float16 2
  view.setUint16(47, 0xc040, true); // bfloat16 -3
  writeFileSync(file, bytes);
  const build = new GraphBuilder("external");
  const x = build.input("x", "float32", [1, 1]);
  const single = build.external("single", "float32", [1], { file, offset: 13, length: 4 });
  const half = build.external("half", "float16", [1], { file, offset: 31, length: 2 });
  const brain = build.external("brain", "bfloat16", [1], { file, offset: 47, length: 2 });
  const halfCast = build.cast("half.cast", half, "float16", "float32");
  const brainCast = build.cast("brain.cast", brain, "bfloat16", "float32");
  build.node("a", "Mul", [x, single]);
  build.node("b", "Mul", ["a", halfCast]);
  build.node("y", "Mul", ["b", brainCast]);
  build.output("y", "float32", [1, 1]);
  expect([...(await run(build, [10])).data]).toEqual([10 * 1.5 * 2 * -3]);
});

test("a changed graph is encoded as changed", async () => {
  const build = new GraphBuilder("mutable");
  const x = build.input("x", "float32", [1, 1]);
  build.node("y", "Sub", [x, build.scalar("float32", 3)]);
  build.output("y", "float32", [1, 1]);
  expect([...(await run(build, [10])).data]).toEqual([7]);
  node(build.graph, "y").inputs.reverse();
  expect([...(await run(build, [10])).data]).toEqual([-7]);
});

test("a name stands for one value only", () => {
  const build = new GraphBuilder("names");
  build.input("x", "float32", [1]);
  expect(() => build.node("x", "Identity", ["x"])).toThrow("two values named x");
  expect(() => node(build.graph, "z")).toThrow("no node z");
});
