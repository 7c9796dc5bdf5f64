/** Transformer and T5 with weights in int8, and what they are compared with. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { prepareQuantised } from "@fluxline/gpu-node/adapters/quantisation/quantised-cache.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import { quantisationBlocks, QUANTISATION_BLOCK } from "@fluxline/gpu-node/core/quantisation.ts";
import type { QuantisedFile, QuantisedTensor } from "@fluxline/gpu-node/core/quantised-file.ts";
import type { StoredTensor } from "@fluxline/gpu-node/core/safetensors.ts";
import type { NamedTensors } from "@fluxline/gpu-node/core/tensor.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import type { Recipe } from "@fluxline/gpu-node/models/network.ts";
import type { OnnxGraph, RunType } from "@fluxline/gpu-node/onnx/graph.ts";
import { CPU, goldenCheckpoint } from "./network-run.ts";

type Place = { readonly folder: string; readonly model: string };

interface Way {
  readonly runType: RunType;
  readonly recipe: Recipe;
}

const FLOAT32: Way = { runType: "float32", recipe: "fused" };

type Builder = (part: Component, way: Way, place?: Place) => OnnxGraph;

const BUILDERS: Readonly<Record<string, Builder>> = {
  transformer: (part, { runType, recipe }, place) =>
    fluxTransformerGraph(part, runType, undefined, recipe, place),
  text_encoder_2: (part, { runType, recipe }, place) =>
    t5EncoderGraph(part, runType, recipe, place),
};

export const QUANTISED_NETWORKS = Object.keys(BUILDERS);

const PREPARATION = { threads: 1, log: () => undefined };
const prepared = new Map<string, Promise<void>>();

/** A network of a golden checkpoint as a graph with int8 weights, whose files are made. */
export async function quantisedGraph(
  checkpoint: string,
  network: string,
  folder: string,
  way: Way = FLOAT32,
): Promise<{ part: Component; graph: OnnxGraph }> {
  const { digest, ...opened } = await goldenCheckpoint(checkpoint);
  const part = component({ digest, ...opened }, network);
  const graph = BUILDERS[network]!(part, way, { folder, model: digest });
  const key = `${folder} ${checkpoint} ${network}`;
  const made = prepared.get(key) ?? prepareQuantised(graph.quantised, PREPARATION);
  prepared.set(key, made);
  await made;
  return { part, graph };
}

/**
 * The network in float32 with each quantised weight replaced by what its codes stand for, read back
 * from the files.
 */
export function dequantisedGraph(
  network: string,
  part: Component,
  files: readonly QuantisedFile[],
  folder: string,
): OnnxGraph {
  mkdirSync(folder, { recursive: true });
  const weights = new Map(part.weights);
  for (const file of files) {
    const bytes = readFileSync(file.file);
    for (const tensor of file.tensors) {
      weights.set(tensor.source.name, dequantised(tensor, bytes, folder));
    }
  }
  return BUILDERS[network]!({ ...part, weights }, FLOAT32);
}

function dequantised(
  { source, outputs, inputs, codesOffset, scalesOffset }: QuantisedTensor,
  bytes: Buffer,
  folder: string,
): StoredTensor {
  const values = new Float32Array(outputs * inputs);
  const blocks = quantisationBlocks(inputs);
  for (let row = 0, at = 0; row < outputs; row++) {
    for (let column = 0; column < inputs; column++, at++) {
      const cell = row * blocks + Math.floor(column / QUANTISATION_BLOCK);
      const code = bytes[codesOffset + cell * QUANTISATION_BLOCK + (column % QUANTISATION_BLOCK)]!;
      values[at] = (code - 128) * bytes.readFloatLE(scalesOffset + 4 * cell);
    }
  }
  const file = join(folder, `${source.name}.bin`);
  writeFileSync(file, values);
  return { ...source, dtype: "F32", file, offset: 0, length: values.byteLength };
}

export async function run(graph: OnnxGraph, inputs: NamedTensors): Promise<NamedTensors> {
  const session = await openSession(toGraph(graph), CPU);
  try {
    return await session.run(inputs);
  } finally {
    await session.close();
  }
}

/** Lets the codes be multiplied in float32, so that only the weights are rounded, not what meets them. */
export function withExactProducts(graph: OnnxGraph): OnnxGraph {
  const nodes = graph.nodes.map((node) => {
    const copy = { ...node, inputs: [...node.inputs] };
    if (node.operator !== "MatMulNBits") return copy;
    return { ...copy, attributes: { ...node.attributes, accuracy_level: { int: 0 } } };
  });
  return { ...graph, nodes, initializers: graph.initializers.map((one) => ({ ...one })) };
}
