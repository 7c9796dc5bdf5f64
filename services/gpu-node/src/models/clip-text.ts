/**
 * The CLIP text encoder: FLUX takes its pooled output, one vector that says what the picture is
 * about. A causal transformer with layer norms before each half of a block.
 *
 *   ids -> token + position embedding -> blocks -> final norm -> last_hidden_state
 *                                                            \-> row at the end token -> pooled
 */
import type { Component } from "../core/checkpoint.ts";
import type { OnnxGraph, RunType } from "../onnx/graph.ts";
import { attend } from "./attention.ts";
import { activate, readActivation, type Activation } from "./activation.ts";
import { Network, type Recipe } from "./network.ts";

export interface ClipTextConfig {
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly feedForwardWidth: number;
  readonly vocabulary: number;
  /** Longest input; the tokenizer pads to it. */
  readonly positions: number;
  readonly activation: Activation;
  readonly epsilon: number;
  /** 2 is a marker of old configs: the end token is then the largest id of the input. */
  readonly endToken: number;
}

const OLD_END_TOKEN = 2;

export function readClipTextConfig({ config }: Component): ClipTextConfig {
  config.oneOf("model_type", ["clip_text_model", "clip"], "clip_text_model");
  const width = config.integer("hidden_size", { min: 1, fallback: 512 });
  const heads = config.integer("num_attention_heads", { min: 1, fallback: 8 });
  if (width % heads !== 0) {
    throw config.error("num_attention_heads", `is ${heads}; it must divide hidden_size ${width}`);
  }
  return {
    width,
    heads,
    layers: config.integer("num_hidden_layers", { min: 1, fallback: 12 }),
    feedForwardWidth: config.integer("intermediate_size", { min: 1, fallback: 2048 }),
    vocabulary: config.integer("vocab_size", { min: 1, fallback: 49408 }),
    positions: config.integer("max_position_embeddings", { min: 1, fallback: 77 }),
    activation: readActivation(config, "hidden_act", "quick_gelu"),
    epsilon: config.number("layer_norm_eps", { above: 0, fallback: 1e-5 }),
    endToken: config.integer("eos_token_id", { min: 0, fallback: 49407 }),
  };
}

/**
 * Inputs: `input_ids` int64 [B, T], T at most `positions`. Outputs: `pooled_output` [B, width],
 * `last_hidden_state` [B, T, width].
 */
export function clipTextGraph(part: Component, runType: RunType, recipe?: Recipe): OnnxGraph {
  const config = readClipTextConfig(part);
  const network = new Network(part, part.name, runType, recipe);
  const prefixed = [...part.weights.keys()].some((name) => name.startsWith("text_model."));
  const root = prefixed ? "text_model." : "";

  const ids = network.build.input("input_ids", "int64", ["B", "T"]);
  let hidden = embed(network, `${root}embeddings`, ids, config);
  const rows = network.rowsShape("rows", hidden);
  for (let layer = 0; layer < config.layers; layer++) {
    const weights = `${root}encoder.layers.${layer}`;
    hidden = selfAttention(network, `block.${layer}.attn`, weights, hidden, rows, config);
    hidden = feedForward(network, `block.${layer}.mlp`, weights, hidden, rows, config);
  }
  const { width, epsilon } = config;
  const final = network.layerNorm("final.norm", hidden, `${root}final_layer_norm`, width, epsilon);
  const pooled = pool(network, ids, final, config.endToken);
  network.floatOutput("pooled_output", pooled, ["B", width]);
  network.floatOutput("last_hidden_state", final, ["B", "T", width]);
  return network.build.graph;
}

/** [B, T] -> [B, T, width] */
function embed(network: Network, weights: string, ids: string, config: ClipTextConfig): string {
  const { build } = network;
  const { vocabulary, positions, width } = config;
  const table = `${weights}.token_embedding.weight`;
  const words = network.lookup("embed.words", table, [vocabulary, width], ids);
  const places = network.weight(`${weights}.position_embedding.weight`, [positions, width]);
  const length = build.node("embed.length", "Shape", [ids], { start: { int: 1 } });
  const used = build.node("embed.places", "Slice", [places, build.ints(0), length, build.ints(0)]);
  return network.add("embed", words, used);
}

function selfAttention(
  network: Network,
  at: string,
  weights: string,
  input: string,
  rows: string,
  { width, heads, epsilon }: ClipTextConfig,
): string {
  const normed = network.layerNorm(`${at}.norm`, input, `${weights}.layer_norm1`, width, epsilon);
  const project = (name: string, value: string) =>
    network.linear(`${at}.${name}`, value, `${weights}.self_attn.${name}`, {
      inputs: width,
      outputs: width,
      rows,
    });
  const mixed = attend(network, `${at}.mix`, {
    query: project("q_proj", normed),
    key: project("k_proj", normed),
    value: project("v_proj", normed),
    heads,
    scale: (width / heads) ** -0.5,
    causal: true,
  });
  return network.add(`${at}.sum`, input, project("out_proj", mixed));
}

function feedForward(
  network: Network,
  at: string,
  weights: string,
  input: string,
  rows: string,
  { width, feedForwardWidth, activation, epsilon }: ClipTextConfig,
): string {
  const normed = network.layerNorm(`${at}.norm`, input, `${weights}.layer_norm2`, width, epsilon);
  const up = { inputs: width, outputs: feedForwardWidth, rows };
  const down = { inputs: feedForwardWidth, outputs: width, rows };
  const wide = network.linear(`${at}.fc1`, normed, `${weights}.mlp.fc1`, up);
  const active = activate(network, `${at}.act`, wide, activation);
  const narrow = network.linear(`${at}.fc2`, active, `${weights}.mlp.fc2`, down);
  return network.add(`${at}.sum`, input, narrow);
}

/** The row of each text's first end token: [B, T, width] -> [B, width]. */
function pool(network: Network, ids: string, hidden: string, endToken: number): string {
  const { build } = network;
  const toInt32 = { to: { int: 6 } };
  const old = endToken === OLD_END_TOKEN;
  const isEnd = old ? ids : build.node("pool.is_end", "Equal", [ids, build.int(endToken)]);
  const score = build.node("pool.score", "Cast", [isEnd], toInt32);
  // ArgMax takes the first of equal values, like the search for the first end token.
  const place = build.node("pool.place", "ArgMax", [score], { axis: { int: 1 } });
  return build.node("pool", "GatherND", [hidden, place], { batch_dims: { int: 1 } });
}
