/** The layers of which the blocks of a FLUX transformer are made. */
import { attend } from "./attention.ts";
import { FEED_FORWARD_RATIO, type FluxTransformerConfig } from "./flux-config.ts";
import type { Network } from "./network.ts";

/** Of every layer norm and root mean square norm in the network. */
const EPSILON = 1e-6;

/** A sequence of tokens, [B, T, width], and the shape [B, T, -1] that its linear layers restore. */
export interface Stream {
  readonly value: string;
  readonly rows: string;
}

/** The parts of a modulation, each [B, 1, width], computed from the conditioning vector. */
export const HALF_BLOCK = ["shift", "scale", "gate"] as const;
export const WHOLE_BLOCK = [
  "attn_shift",
  "attn_scale",
  "attn_gate",
  "mlp_shift",
  "mlp_scale",
  "mlp_gate",
] as const;
/** The last norm of the network has the scale first. */
export const FINAL_NORM = ["scale", "shift"] as const;

export class FluxLayers {
  readonly network: Network;
  readonly config: FluxTransformerConfig;
  readonly cos: string;
  readonly sin: string;

  constructor(network: Network, config: FluxTransformerConfig, cos: string, sin: string) {
    this.network = network;
    this.config = config;
    this.cos = cos;
    this.sin = sin;
  }

  /** Conditioning [B, width] -> one [B, 1, width] for each part. */
  modulation<Part extends string>(
    at: string,
    active: string,
    weights: string,
    parts: readonly Part[],
  ): Record<Part, string> {
    const { width } = this.config;
    const { build } = this.network;
    const shape = { inputs: width, outputs: parts.length * width };
    const all = this.network.linear2d(`${at}.all`, active, weights, shape);
    return build.split(at, build.node(`${at}.row`, "Unsqueeze", [all, build.ints(1)]), parts);
  }

  /** Layer norm without weights, then * (1 + scale) + shift. */
  modulatedNorm(at: string, input: string, scale: string, shift: string): string {
    const { build, runType } = this.network;
    const ones = build.filled(runType, 1, this.config.width);
    const normed = build.node(`${at}.plain`, "LayerNormalization", [input, ones], {
      axis: { int: -1 },
      epsilon: { float: EPSILON },
    });
    const factor = build.node(`${at}.factor`, "Add", [scale, build.scalar(runType, 1)]);
    const scaled = build.node(`${at}.scaled`, "Mul", [normed, factor]);
    return build.node(at, "Add", [scaled, shift]);
  }

  /** [B, T, width] -> [B, T, width] */
  project(at: string, input: string, weights: string, rows: string): string {
    const { width } = this.config;
    return this.network.linear(at, input, weights, { inputs: width, outputs: width, rows });
  }

  /** Root mean square norm of each head: [B, T, width] -> [B, T, width]. */
  headNorm(at: string, input: string, weight: string): string {
    const { build } = this.network;
    const { heads, headWidth, width } = this.config;
    const perHead = build.ints(0, 0, heads, headWidth);
    const split = build.node(`${at}.heads`, "Reshape", [input, perHead]);
    const scale = this.network.weight(weight, [headWidth]);
    const normed = this.network.rmsNorm(`${at}.normed`, split, scale, EPSILON);
    return build.node(at, "Reshape", [normed, build.ints(0, 0, width)]);
  }

  /** Rotates pairs of neighbouring channels of each head by the angles of the token's position. */
  rotate(at: string, input: string): string {
    const { build } = this.network;
    const inputs = [input, build.ints(0), this.cos, this.sin];
    return build.fused(at, "RotaryEmbedding", inputs, {
      interleaved: { int: 1 },
      num_heads: { int: this.config.heads },
    });
  }

  /** Every token attends to every token: [B, S, width] three times -> [B, S, width]. */
  attend(at: string, query: string, key: string, value: string): string {
    const { heads, headWidth } = this.config;
    return attend(this.network, at, { query, key, value, heads, scale: headWidth ** -0.5 });
  }

  /** The wide half of a feed-forward layer, activated: [B, T, width] -> [B, T, 4 * width]. */
  widen(at: string, input: string, weights: string, rows: string): string {
    const { width } = this.config;
    const shape = { inputs: width, outputs: FEED_FORWARD_RATIO * width, rows };
    const wide = this.network.linear(`${at}.wide`, input, weights, shape);
    return this.network.build.node(at, "Gelu", [wide], { approximate: { string: "tanh" } });
  }

  /** input + gate * change */
  gatedSum(at: string, input: string, gate: string, change: string): string {
    const gated = this.network.build.node(`${at}.gated`, "Mul", [gate, change]);
    return this.network.add(at, input, gated);
  }
}
