/** Ends the building of a network: its graph as the bytes that a runner loads. */
import { assert } from "@fluxline/kernel/assert.ts";
import type { FileRange, Graph, TensorSpec } from "../core/image-model.ts";
import type { OnnxGraph, ValueInfo } from "../onnx/graph.ts";
import { encodeModel } from "../onnx/model-encoder.ts";

export function toGraph(graph: OnnxGraph): Graph {
  return {
    name: graph.name,
    onnx: encodeModel(graph),
    inputs: graph.inputs.map(tensorSpec),
    outputs: graph.outputs.map(tensorSpec),
    weightBytes: graph.weightBytes,
    weights: checkpointRanges(graph),
    quantised: graph.quantised,
  };
}

function checkpointRanges({ initializers, quantised }: OnnxGraph): FileRange[] {
  const made = new Set(quantised.map(({ file }) => file));
  return initializers.flatMap(({ data }): FileRange[] =>
    data instanceof Uint8Array || made.has(data.file) ? [] : [data],
  );
}

function tensorSpec({ name, type, dims }: ValueInfo): TensorSpec {
  const crosses = type !== "bfloat16" && type !== "bool" && type !== "uint8";
  assert(crosses, `${name}: ${type} cannot cross a graph's edge`);
  return { name, type, dims };
}
