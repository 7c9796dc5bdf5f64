/**
 * Streams that outgrow float16, whose largest number is 65504. FLUX clips where diffusers does: the
 * text stream after a double block and the joined stream after a single one; T5 keeps its residual
 * sum in float32. The weights are scaled up here until the streams do outgrow it.
 *
 * The CPU provider computes float16 in float32 and rounds only where a tensor leaves a graph or a
 * Cast stands: so the graphs are cut behind the block, or given a Cast, to see what a GPU would see
 * everywhere. That a GPU's own kernels stay in range is not shown by this.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assert } from "@fluxline/kernel/assert.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import type { NamedTensors, Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { FLOAT16_MAX, float16Value } from "@fluxline/gpu-node/onnx/float-bits.ts";
import { ELEMENT_CODE, node, type OnnxGraph } from "@fluxline/gpu-node/onnx/graph.ts";
import { afterAll, describe, expect, test } from "vitest";
import { relativeError } from "./comparison.ts";
import { floats as goldenFloats } from "./golden-data.ts";
import { caseOf, goldenCheckpoint, networkInputs } from "./network-run.ts";
import { run } from "./quantised-run.ts";

/** As in run-types.test.ts. */
const FLOAT16_TOLERANCE = 0.005;

const folder = mkdtempSync(join(tmpdir(), "fluxline-range-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** The part with some weights as large as float16 has room for. */
function scaled(part: Component, names: readonly string[]): Component {
  const weights = new Map(part.weights);
  for (const name of names) {
    const stored = weights.get(name);
    assert(stored !== undefined && stored.dtype === "F32", `no float32 weight ${name}`);
    const given = valuesOf(part, name);
    const factor = (0.9 * FLOAT16_MAX) / largest(given);
    const values = given.map((value) => value * factor);
    const file = join(folder, `${name}.bin`);
    writeFileSync(file, values);
    weights.set(name, { ...stored, file, offset: 0 });
  }
  return { ...part, weights };
}

function valuesOf(part: Component, name: string): Float32Array {
  const { file, offset, length } = part.weights.get(name)!;
  return new Float32Array(
    new Uint8Array(readFileSync(file).subarray(offset, offset + length)).buffer,
  );
}

function floats({ type, data }: Tensor): Float32Array {
  if (type === "float16") return Float32Array.from(data as Uint16Array, float16Value);
  return data as Float32Array;
}

const largest = (values: Float32Array): number =>
  values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

const STREAMS = [
  {
    stream: "text, after a double block",
    grown: "transformer_blocks.0.ff_context.net.2.weight",
    boundary: "txt.1",
    cut: 1,
  },
  {
    stream: "text and image, after a single block",
    grown: "single_transformer_blocks.0.proj_out.weight",
    boundary: "x.3",
    cut: 3,
  },
];
const BLOCKS = 5;

describe.each(STREAMS)("$stream", ({ grown, boundary, cut }) => {
  const golden = caseOf("dev-like", "transformer", "one row, wide");

  /** The stream where the chain is cut, and the prediction. */
  async function predict(runType: "float32" | "float16", change: (graph: OnnxGraph) => void) {
    const original = component(await goldenCheckpoint("dev-like"), "transformer");
    const part = scaled(original, [grown]);
    const tokens = goldenFloats(golden.file, golden.inputs["txt_ids"]!).length / 3;
    const inputs: NamedTensors = {
      ...networkInputs(golden, original),
      text_length: { type: "int64", dims: [1], data: BigInt64Array.of(BigInt(tokens)) },
    };
    const stage = (first: number, end: number): OnnxGraph => {
      const graph = fluxTransformerGraph(part, runType, { first, end });
      change(graph);
      return graph;
    };
    const handed = await run(stage(0, cut), inputs);
    const { sample } = await run(stage(cut, BLOCKS), { ...inputs, ...handed });
    return { stream: floats(handed[boundary]!), sample: floats(sample!) };
  }

  test("outgrows float16 here, and is cut off at its largest number", async () => {
    const exact = await predict("float32", () => undefined);
    expect(largest(exact.stream)).toBeGreaterThan(1.2 * FLOAT16_MAX);
    const half = await predict("float16", () => undefined);
    expect(largest(half.stream)).toBe(FLOAT16_MAX);
    expect(half.sample.every(Number.isFinite)).toBe(true);
    const cutOff = exact.stream.map((v) => Math.max(-FLOAT16_MAX, Math.min(FLOAT16_MAX, v)));
    // Of what the stream was rounded from, not of where it is cut off.
    const error = largest(half.stream.map((value, at) => value - cutOff[at]!));
    expect(error / largest(exact.stream)).toBeLessThan(FLOAT16_TOLERANCE);
  });

  test("becomes infinite without, and the prediction no number", async () => {
    const { stream, sample } = await predict("float16", (graph) => {
      for (const one of graph.nodes.filter(({ operator }) => operator === "Clip")) {
        Object.assign(one, { operator: "Identity", inputs: [one.inputs[0]] });
      }
    });
    expect(largest(stream)).toBe(Infinity);
    expect(sample.some(Number.isNaN)).toBe(true);
  });
});

describe("T5's residual sum", () => {
  const golden = caseOf("dev-like", "text_encoder_2", "length 16");
  const grown = [0, 1].map((layer) => `encoder.block.${layer}.layer.1.DenseReluDense.wo.weight`);

  async function encode(runType: "float32" | "float16", change: (graph: OnnxGraph) => void) {
    const original = component(await goldenCheckpoint("dev-like"), "text_encoder_2");
    const graph = t5EncoderGraph(scaled(original, grown), runType);
    const sum = "block.0.mlp.sum";
    graph.outputs.push({ name: sum, type: "float32", dims: ["B", "T", "W"] });
    change(graph);
    const out = await run(graph, networkInputs(golden, original));
    return { sum: floats(out[sum]!), hidden: floats(out["last_hidden_state"]!) };
  }

  test("outgrows float16 here, and is kept in float32", async () => {
    const exact = await encode("float32", () => undefined);
    expect(largest(exact.sum)).toBeGreaterThan(1.2 * FLOAT16_MAX);
    const half = await encode("float16", () => undefined);
    expect(relativeError(half.sum, exact.sum)).toBeLessThan(FLOAT16_TOLERANCE);
    expect(relativeError(half.hidden, exact.hidden)).toBeLessThan(FLOAT16_TOLERANCE);
  });

  test("would be infinite in float16, and the text no number", async () => {
    const { hidden } = await encode("float16", (graph) =>
      roundedToFloat16(graph, "block.0.mlp.sum"),
    );
    expect(hidden.some(Number.isNaN)).toBe(true);
  });
});

/** Lets those who read a value read what float16 makes of it. */
function roundedToFloat16(graph: OnnxGraph, value: string): void {
  const readers = graph.nodes.filter(({ inputs }) => inputs.includes(value));
  const cast = (name: string, from: string, to: "float16" | "float32") => {
    const attributes = { to: { int: ELEMENT_CODE[to] } };
    const made = { name, operator: "Cast", domain: "" as const, inputs: [from], outputs: [name] };
    graph.nodes.splice(graph.nodes.indexOf(readers[0]!), 0, { ...made, attributes });
    return name;
  };
  expect(node(graph, value).outputs).toEqual([value]);
  const rounded = cast(`${value}.back`, cast(`${value}.half`, value, "float16"), "float32");
  for (const { inputs } of readers) inputs[inputs.indexOf(value)] = rounded;
}
