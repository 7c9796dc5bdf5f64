/**
 * The encoder half of T5: FLUX takes its last hidden state, one vector per token, as the text that
 * the image attends to. No biases, no scaling of the scores, and positions only as a learned bias
 * per bucket of distance, which the first block holds for all. No mask: padding is attended to, as
 * the model was trained.
 */
import type { Component } from "../core/checkpoint.ts";
import type { QuantisedPlace } from "../core/quantised-file.ts";
import type { OnnxGraph, RunType } from "../onnx/graph.ts";
import { attend } from "./attention.ts";
import { activate, type Activation } from "./activation.ts";
import { Network, type Recipe } from "./network.ts";
import { bucketTable } from "./t5-buckets.ts";

export interface T5EncoderConfig {
  readonly layers: number;
  readonly heads: number;
  readonly headWidth: number;
  readonly width: number;
  readonly feedForwardWidth: number;
  readonly gated: boolean;
  readonly activation: Activation;
  readonly vocabulary: number;
  readonly buckets: number;
  readonly distanceMax: number;
  readonly epsilon: number;
}

const FEED_FORWARD = {
  "gated-gelu": { gated: true, activation: "gelu_new" },
  "gated-gelu_new": { gated: true, activation: "gelu_new" },
  "gated-silu": { gated: true, activation: "silu" },
  "gated-relu": { gated: true, activation: "relu" },
  relu: { gated: false, activation: "relu" },
  gelu: { gated: false, activation: "gelu" },
  gelu_new: { gated: false, activation: "gelu_new" },
  silu: { gated: false, activation: "silu" },
} as const;

export function readT5EncoderConfig({ config }: Component): T5EncoderConfig {
  config.oneOf("model_type", ["t5"], "t5");
  const kinds = Object.keys(FEED_FORWARD) as (keyof typeof FEED_FORWARD)[];
  const kind = config.oneOf("feed_forward_proj", kinds, "relu");
  const buckets = config.integer("relative_attention_num_buckets", { min: 4, fallback: 32 });
  if (buckets % 2 !== 0) {
    throw config.error("relative_attention_num_buckets", `is ${buckets}; use an even number`);
  }
  const distanceMax = config.integer("relative_attention_max_distance", { fallback: 128 });
  if (distanceMax <= buckets / 4) {
    const rule = `must exceed a quarter of relative_attention_num_buckets, ${buckets / 4}`;
    throw config.error("relative_attention_max_distance", `is ${distanceMax}; it ${rule}`);
  }
  return {
    ...FEED_FORWARD[kind],
    buckets,
    distanceMax,
    layers: config.integer("num_layers", { min: 1, fallback: 6 }),
    heads: config.integer("num_heads", { min: 1, fallback: 8 }),
    headWidth: config.integer("d_kv", { min: 1, fallback: 64 }),
    width: config.integer("d_model", { min: 1, fallback: 512 }),
    feedForwardWidth: config.integer("d_ff", { min: 1, fallback: 2048 }),
    vocabulary: config.integer("vocab_size", { min: 1, fallback: 32128 }),
    epsilon: config.number("layer_norm_epsilon", { above: 0, fallback: 1e-6 }),
  };
}

/** Input: `input_ids` int64 [B, T]. Output: `last_hidden_state` [B, T, d_model]. */
export function t5EncoderGraph(
  part: Component,
  runType: RunType,
  recipe?: Recipe,
  quantised?: QuantisedPlace,
): OnnxGraph {
  const config = readT5EncoderConfig(part);
  const network = new Network(part, part.name, runType, recipe, quantised);
  return new T5Encoder(network, config).graph();
}

class T5Encoder {
  readonly #network: Network;
  readonly #config: T5EncoderConfig;
  /** The residual sum outgrows float16; there it is kept in float32, as is each `wo`. */
  readonly #sumType: RunType;

  constructor(network: Network, config: T5EncoderConfig) {
    this.#network = network;
    this.#config = config;
    this.#sumType = network.runType === "float16" ? "float32" : network.runType;
  }

  graph(): OnnxGraph {
    const { build, runType } = this.#network;
    const { vocabulary, width, layers } = this.#config;
    const ids = build.input("input_ids", "int64", ["B", "T"]);
    const embedding = this.#network.find("shared.weight", "encoder.embed_tokens.weight");
    const embedded = this.#network.lookup("embed.words", embedding, [vocabulary, width], ids);
    const rows = this.#network.rowsShape("rows", embedded);
    const bias = this.#positionBias(ids);
    let hidden = build.cast("embed.sum", embedded, runType, this.#sumType);
    for (let layer = 0; layer < layers; layer++) {
      hidden = this.#network.block(String(layer), () => this.#block(layer, hidden, rows, bias));
    }
    const final = this.#norm("final.norm", hidden, "encoder.final_layer_norm");
    this.#network.floatOutput("last_hidden_state", final, ["B", "T", width]);
    return build.graph;
  }

  /** [1, heads, T, T]: the learned bias of each pair's bucket. */
  #positionBias(ids: string): string {
    const { build } = this.#network;
    const { buckets, distanceMax, heads } = this.#config;
    const sized = { start: { int: 1 }, end: { int: 2 } };
    const length = build.node("bias.length", "Shape", [ids], sized);
    const count = build.node("bias.count", "Squeeze", [length]);
    const places = build.node("bias.places", "Range", [build.int(0), count, build.int(1)]);
    const column = build.node("bias.query", "Unsqueeze", [places, build.ints(1)]);
    const apart = build.node("bias.distance", "Sub", [places, column]); // key - query, [T, T]
    const limits = [-distanceMax, distanceMax].map((limit) => build.int(limit));
    const near = build.node("bias.near", "Clip", [apart, ...limits]);
    const index = build.node("bias.index", "Add", [near, build.int(distanceMax)]);
    const table = build.table("bias.buckets", bucketTable(buckets, distanceMax));
    const bucket = build.node("bias.bucket", "Gather", [table, index]);
    const learned = this.#network.weight(
      "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
      [buckets, heads],
    );
    const perPair = build.node("bias.learned", "Gather", [learned, bucket]); // [T, T, heads]
    const perm = { perm: { ints: [2, 0, 1] } };
    const perHead = build.node("bias.heads", "Transpose", [perPair], perm);
    return build.node("bias", "Unsqueeze", [perHead, build.ints(0)]);
  }

  #block(layer: number, hidden: string, rows: string, bias: string): string {
    return this.#feedForward(layer, this.#attention(layer, hidden, rows, bias), rows);
  }

  #attention(layer: number, hidden: string, rows: string, bias: string): string {
    const network = this.#network;
    const { heads, headWidth, width } = this.#config;
    const at = `block.${layer}.attn`;
    const weights = `encoder.block.${layer}.layer.0`;
    const inner = heads * headWidth;
    const normed = this.#norm(`${at}.norm`, hidden, `${weights}.layer_norm`);
    const project = (name: string): string =>
      network.linear(`${at}.${name}`, normed, `${weights}.SelfAttention.${name}`, {
        inputs: width,
        outputs: inner,
        bias: false,
        rows,
      });
    const [query, key, value] = [project("q"), project("k"), project("v")];
    const mixed = attend(network, `${at}.mix`, { query, key, value, heads, bias, scale: 1 });
    const out = network.linear(`${at}.o`, mixed, `${weights}.SelfAttention.o`, {
      inputs: inner,
      outputs: width,
      bias: false,
      rows,
    });
    return this.#sum(at, hidden, out, network.runType);
  }

  #feedForward(layer: number, hidden: string, rows: string): string {
    const network = this.#network;
    const { gated, activation, width, feedForwardWidth } = this.#config;
    const at = `block.${layer}.mlp`;
    const weights = `encoder.block.${layer}.layer.1`;
    const inner = `${weights}.DenseReluDense`;
    const normed = this.#norm(`${at}.norm`, hidden, `${weights}.layer_norm`);
    const up = { inputs: width, outputs: feedForwardWidth, bias: false, rows };
    const first = gated ? "wi_0" : "wi";
    const wide = network.linear(`${at}.${first}`, normed, `${inner}.${first}`, up);
    let active = activate(network, `${at}.act`, wide, activation);
    if (gated) {
      const gate = network.linear(`${at}.wi_1`, normed, `${inner}.wi_1`, up);
      active = network.build.node(`${at}.gated`, "Mul", [active, gate]);
    }
    const type = this.#sumType;
    const cast = network.build.cast(`${at}.act.sum`, active, network.runType, type);
    const down = { inputs: feedForwardWidth, outputs: width, bias: false, rows };
    return this.#sum(at, hidden, network.linear(`${at}.wo`, cast, `${inner}.wo`, down, type), type);
  }

  #norm(at: string, hidden: string, weights: string): string {
    const network = this.#network;
    const { width, epsilon } = this.#config;
    const scale = network.weight(`${weights}.weight`, [width], this.#sumType);
    const normed = network.rmsNorm(at, hidden, scale, epsilon);
    return network.build.cast(`${at}.run`, normed, this.#sumType, network.runType);
  }

  #sum(at: string, hidden: string, change: string, type: RunType): string {
    const cast = this.#network.build.cast(`${at}.change`, change, type, this.#sumType);
    return this.#network.add(`${at}.sum`, hidden, cast);
  }
}
