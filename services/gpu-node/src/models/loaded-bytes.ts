/**
 * Bytes of a graph's weights once they are loaded, from the graph itself: so that what a plan counts
 * and what runs cannot drift apart.
 *
 *   float32, float16, bfloat16   elements x bytes of the type in which each is computed with, which
 *                                on the CPU provider is float32 for float16
 *   int8                         linear layers of the blocks, [N, K]:
 *                                N x ceil(K / 128) x (128 + bytes of a scale); the rest in the
 *                                compute type
 *   embedding tables             as they are stored; none on the CPU provider, which reads their
 *                                rows from the mapped file
 */
import { FLOAT_BYTES } from "../onnx/float-bits.ts";
import type { OnnxGraph, RunType } from "../onnx/graph.ts";
import type { WeightType } from "../core/model-sizes.ts";

/** Values that share a scale. */
export const INT8_BLOCK = 128;
/** Blocks of the denoiser and of T5. CLIP and the autoencoder are small, and stay as they are. */
const QUANTISED_GRAPHS = /^(transformer|text_encoder_2)/;
const INSIDE_A_BLOCK = /^(double|single|block)\.\d+\./;

/**
 * What is computed with, and held beside int8. The CPU provider has no kernels for float16: it turns
 * such weights into float32 while it loads (measured).
 */
export function computeType(weightType: WeightType, provider: string): RunType {
  if (weightType === "int8") return provider === "cpu" ? "float32" : "float16";
  return weightType === "float16" && provider === "cpu" ? "float32" : weightType;
}

/** `graph` is built in the `computeType`. */
export function loadedBytes(graph: OnnxGraph, weightType: WeightType, provider: string): number {
  const tables = provider === "cpu" ? graph.tableBytes : 0;
  const saved = weightType === "int8" ? savedByInt8(graph, provider) : 0;
  return graph.weightBytes - tables - saved;
}

/** One quantised linear layer, [outputs, inputs]. */
export function int8Bytes(outputs: number, inputs: number, scaleBytes: number): number {
  return outputs * Math.ceil(inputs / INT8_BLOCK) * (INT8_BLOCK + scaleBytes);
}

function savedByInt8(graph: OnnxGraph, provider: string): number {
  if (!QUANTISED_GRAPHS.test(graph.name)) return 0;
  const scaleBytes = FLOAT_BYTES[computeType("int8", provider)];
  const stored = new Map(graph.initializers.map(({ name, type, dims }) => [name, { type, dims }]));
  let saved = 0;
  for (const { name, operator, inputs } of graph.nodes) {
    if (operator !== "Gemm" || !INSIDE_A_BLOCK.test(name)) continue;
    // A weight that is stored in another type is read through a Cast that says which it becomes.
    const [, raw = inputs[1]!, cast] = /^(.*)\.as\.(float\w+|bfloat16)$/.exec(inputs[1]!) ?? [];
    const { type, dims } = stored.get(raw)!;
    const [outputs = 0, inputWidth = 0] = dims;
    const bytes = FLOAT_BYTES[(cast ?? type) as RunType];
    saved += outputs * inputWidth * bytes - int8Bytes(outputs, inputWidth, scaleBytes);
  }
  return saved;
}
