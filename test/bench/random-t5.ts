/** A T5 encoder of random weights, about 80 million parameters, for benchmarks. */
import { writeFileSync } from "node:fs";
import { Random } from "@fluxline/kernel/random.ts";
import type { Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import { JsonConfig } from "@fluxline/gpu-node/core/json-config.ts";
import { parseHeader } from "@fluxline/gpu-node/core/safetensors.ts";
import {
  type FileTensor,
  float32FileTensor,
  safetensorsFile,
} from "@fluxline/gpu-node/core/safetensors-file.ts";

const CONFIG = {
  model_type: "t5",
  feed_forward_proj: "gated-gelu",
  d_model: 1024,
  d_ff: 2816,
  d_kv: 64,
  num_heads: 16,
  num_layers: 6,
  vocab_size: 1000,
};

/** Writes its weights to `file`. */
export function randomT5(file: string): Component {
  const { d_model: width, d_ff: wide, d_kv, num_heads: heads, num_layers: layers } = CONFIG;
  const random = new Random(6);
  const tensors: Record<string, FileTensor> = {};
  const add = (name: string, shape: readonly number[], scale: number): void => {
    const count = shape.reduce((product, dim) => product * dim, 1);
    // The sum of three is near enough to a normal distribution.
    const draw = () => (random.float() + random.float() + random.float() - 1.5) * 2 * scale;
    tensors[name] = float32FileTensor(shape, Float32Array.from({ length: count }, draw));
  };
  const norm = (name: string): void => {
    tensors[`${name}.weight`] = float32FileTensor([width], new Float32Array(width).fill(1));
  };
  add("shared.weight", [CONFIG.vocab_size, width], 1);
  for (let layer = 0; layer < layers; layer++) {
    const at = `encoder.block.${layer}.layer`;
    norm(`${at}.0.layer_norm`);
    norm(`${at}.1.layer_norm`);
    // T5 does not scale its scores; its queries are small instead.
    add(`${at}.0.SelfAttention.q.weight`, [heads * d_kv, width], (width * d_kv) ** -0.5);
    add(`${at}.0.SelfAttention.k.weight`, [heads * d_kv, width], width ** -0.5);
    add(`${at}.0.SelfAttention.v.weight`, [heads * d_kv, width], width ** -0.5);
    add(`${at}.0.SelfAttention.o.weight`, [width, heads * d_kv], (heads * d_kv) ** -0.5);
    add(`${at}.1.DenseReluDense.wi_0.weight`, [wide, width], width ** -0.5);
    add(`${at}.1.DenseReluDense.wi_1.weight`, [wide, width], width ** -0.5);
    add(`${at}.1.DenseReluDense.wo.weight`, [width, wide], wide ** -0.5);
  }
  add("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", [32, heads], 0.5);
  norm("encoder.final_layer_norm");
  const bytes = safetensorsFile(tensors);
  writeFileSync(file, bytes);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const weights = parseHeader(file, bytes.length, bytes.subarray(8, 8 + length));
  return { name: "text_encoder_2", config: new JsonConfig(file, CONFIG), weights };
}
