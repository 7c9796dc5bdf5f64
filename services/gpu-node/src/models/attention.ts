/**
 * Attention of several heads, [B, S, heads * width] three times -> [B, S, heads * width], in one of
 * two recipes: `fused` is one operator, which never holds all scores at once; `portable` is matrix
 * products and a softmax, because WebGPU's fused operator in onnxruntime 1.30 gives wrong numbers
 * for 32 tokens and more (measured with a software Vulkan).
 */
import { FLOAT16_MAX } from "../onnx/float-bits.ts";
import type { Network } from "./network.ts";

export interface AttentionInputs {
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly heads: number;
  /** Factor of the scores. */
  readonly scale: number;
  /** [1, heads, S, S], added to the scores. */
  readonly bias?: string;
  /** Whether a token sees only itself and those before it. Excludes `bias`. */
  readonly causal?: boolean;
}

export function attend(network: Network, at: string, inputs: AttentionInputs): string {
  return network.recipe === "fused" ? fused(network, at, inputs) : portable(network, at, inputs);
}

function fused(network: Network, at: string, inputs: AttentionInputs): string {
  const { query, key, value, heads, scale, bias, causal } = inputs;
  const values = [query, key, value, ...(bias === undefined ? [] : ["", "", bias])];
  return network.build.fused(at, "MultiHeadAttention", values, {
    num_heads: { int: heads },
    scale: { float: scale },
    ...(causal === true ? { unidirectional: { int: 1 } } : {}),
  });
}

function portable(network: Network, at: string, inputs: AttentionInputs): string {
  const { build, runType } = network;
  const { heads, scale } = inputs;
  const split = (name: string, value: string, perm: readonly number[]): string => {
    const shaped = build.node(`${at}.${name}.heads`, "Reshape", [
      value,
      build.ints(0, 0, heads, -1),
    ]);
    return build.node(`${at}.${name}.first`, "Transpose", [shaped], { perm: { ints: perm } });
  };
  const query = split("q", inputs.query, [0, 2, 1, 3]); // [B, heads, S, width]
  const key = split("k", inputs.key, [0, 2, 3, 1]); // [B, heads, width, S]
  const value = split("v", inputs.value, [0, 2, 1, 3]);
  const factor = build.scalar(runType, scale);
  const scaled = scale === 1 ? query : build.node(`${at}.q.scaled`, "Mul", [query, factor]);
  const plain = build.node(`${at}.scores`, "MatMul", [scaled, key]); // [B, heads, S, S]
  const bias = inputs.causal === true ? causalMask(network, at, plain) : inputs.bias;
  const scores = bias === undefined ? plain : network.add(`${at}.biased`, plain, bias);
  const weights = build.node(`${at}.weights`, "Softmax", [scores], { axis: { int: -1 } });
  const mixed = build.node(`${at}.mixed`, "MatMul", [weights, value]);
  const perm = { perm: { ints: [0, 2, 1, 3] } };
  const tokens = build.node(`${at}.tokens`, "Transpose", [mixed], perm);
  return build.node(at, "Reshape", [tokens, build.ints(0, 0, -1)]);
}

/** [S, S]: nothing for a token and those before it, as good as minus infinity for later ones. */
function causalMask(network: Network, at: string, scores: string): string {
  const { build, runType } = network;
  const size = build.node(`${at}.size`, "Shape", [scores], { start: { int: 2 } });
  const lowest = build.scalar(runType, -FLOAT16_MAX);
  const full = build.node(`${at}.hidden`, "Expand", [lowest, size]);
  return build.node(`${at}.mask`, "Trilu", [full, build.int(1)], { upper: { int: 1 } });
}
