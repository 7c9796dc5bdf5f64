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
    weights: graph.initializers.flatMap(({ data }): FileRange[] =>
      data instanceof Uint8Array ? [] : [data],
    ),
  };
}

function tensorSpec({ name, type, dims }: ValueInfo): TensorSpec {
  assert(type !== "bfloat16" && type !== "bool", `${name}: ${type} cannot cross a graph's edge`);
  return { name, type, dims };
}
