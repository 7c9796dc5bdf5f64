/**
 * Bytes of a graph's weights once they are loaded, from the very graph that runs: so that what a plan
 * counts and what runs cannot drift apart. Of int8, codes and scales (core/quantisation.ts) and, for
 * the rest, elements in the compute type. Embedding tables count as they are stored; not at all on
 * the CPU provider, which reads their rows from the mapped file.
 */
import type { Precision } from "../core/precision.ts";
import type { OnnxGraph, RunType } from "../onnx/graph.ts";
import { quantisationBlocks } from "../core/quantisation.ts";
import { computation } from "./precision.ts";

/** What the CPU provider's packed form holds for each block of codes, beside them and their scale. */
const PACKED_BLOCK_BYTES = 4;

/**
 * What weights become once they are loaded. The CPU provider has no kernels for float16: it turns
 * such weights into float32 (measured).
 */
export function computeType(precision: Precision, provider: string): RunType {
  const { runType } = computation(precision, provider, "/");
  return runType === "float16" && provider === "cpu" ? "float32" : runType;
}

/** `graph` is built in the `computeType`. */
export function loadedBytes(graph: OnnxGraph, provider: string): number {
  if (provider !== "cpu") return graph.weightBytes;
  const tensors = graph.quantised.flatMap((file) => file.tensors);
  const packed = tensors.reduce((sum, { outputs, inputs }) => {
    return sum + PACKED_BLOCK_BYTES * outputs * quantisationBlocks(inputs);
  }, 0);
  return graph.weightBytes - graph.tableBytes + packed;
}
