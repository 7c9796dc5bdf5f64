/** The layers of which both halves of an autoencoder are made. Values are [B, channels, h, w]. */
import { attend } from "./attention.ts";
import { activate } from "./activation.ts";
import type { Network } from "./network.ts";
import type { VaeConfig } from "./vae-config.ts";

const EPSILON = 1e-6;

export interface ConvShape {
  readonly inputs: number;
  readonly outputs: number;
  /** Side of the kernel. */
  readonly size: 1 | 3;
}

export class VaeLayers {
  readonly network: Network;
  readonly config: VaeConfig;

  constructor(network: Network, config: VaeConfig) {
    this.network = network;
    this.config = config;
  }

  /** Convolution that keeps the size. */
  conv(at: string, input: string, weights: string, shape: ConvShape): string {
    const around = (shape.size - 1) / 2;
    return this.#conv(at, input, weights, shape, [around, around, around, around], 1);
  }

  /** Halves the size; the one missing row and column of zeros stand below and to the right. */
  downsample(at: string, input: string, weights: string, channels: number): string {
    const shape: ConvShape = { inputs: channels, outputs: channels, size: 3 };
    return this.#conv(at, input, `${weights}.downsamplers.0.conv`, shape, [0, 0, 1, 1], 2);
  }

  /** Doubles the size: every pixel four times, then a convolution. */
  upsample(at: string, input: string, weights: string, channels: number): string {
    const { build } = this.network;
    // No provider resizes bfloat16.
    const { runType } = this.network;
    const type = runType === "bfloat16" ? "float32" : runType;
    const given = build.cast(`${at}.given`, input, runType, type);
    const scales = build.floats("upsample.scales", [1, 1, 2, 2]);
    const resized = build.node(`${at}.resized`, "Resize", [given, "", scales], {
      mode: { string: "nearest" },
      coordinate_transformation_mode: { string: "asymmetric" },
      nearest_mode: { string: "floor" },
    });
    const doubled = build.cast(`${at}.doubled`, resized, type, runType);
    const shape: ConvShape = { inputs: channels, outputs: channels, size: 3 };
    return this.conv(at, doubled, `${weights}.upsamplers.0.conv`, shape);
  }

  /** Two convolutions, each after norm and activation, added to the input. */
  residual(
    at: string,
    input: string,
    weights: string,
    { inputs, outputs }: { inputs: number; outputs: number },
  ): string {
    const first = this.#normed(`${at}.norm1`, input, `${weights}.norm1`, inputs);
    const middle = this.conv(`${at}.conv1`, first, `${weights}.conv1`, {
      inputs,
      outputs,
      size: 3,
    });
    const second = this.#normed(`${at}.norm2`, middle, `${weights}.norm2`, outputs);
    const shape: ConvShape = { inputs: outputs, outputs, size: 3 };
    const change = this.conv(`${at}.conv2`, second, `${weights}.conv2`, shape);
    const shortcut = { inputs, outputs, size: 1 } as const;
    const kept =
      inputs === outputs
        ? input
        : this.conv(`${at}.shortcut`, input, `${weights}.conv_shortcut`, shortcut);
    return this.network.add(at, kept, change);
  }

  /** The norm and activation before the last convolution: always silu, whatever the config says. */
  finalNormed(at: string, input: string, weights: string, channels: number): string {
    return this.network.silu(at, this.#groupNorm(`${at}.group`, input, weights, channels));
  }

  #normed(at: string, input: string, weights: string, channels: number): string {
    const normed = this.#groupNorm(`${at}.group`, input, weights, channels);
    return activate(this.network, at, normed, this.config.activation);
  }

  /** The blocks between the two halves of the network: residual, attention, residual. */
  middle(at: string, input: string, weights: string, channels: number): string {
    const shape = { inputs: channels, outputs: channels };
    const first = this.residual(`${at}.0`, input, `${weights}.resnets.0`, shape);
    const mixed = this.config.middleAttention
      ? this.#attention(`${at}.attn`, first, `${weights}.attentions.0`, channels)
      : first;
    return this.residual(`${at}.1`, mixed, `${weights}.resnets.1`, shape);
  }

  #conv(
    at: string,
    input: string,
    weights: string,
    { inputs, outputs, size }: ConvShape,
    pads: readonly number[],
    stride: number,
  ): string {
    const kernel = this.network.weight(`${weights}.weight`, [outputs, inputs, size, size]);
    const bias = this.network.weight(`${weights}.bias`, [outputs]);
    return this.network.build.node(at, "Conv", [input, kernel, bias], {
      kernel_shape: { ints: [size, size] },
      pads: { ints: pads },
      strides: { ints: [stride, stride] },
    });
  }

  /**
   * Norm over groups of channels, then the scale and shift of each channel; in float32, whatever
   * the run type, because squares leave float16.
   */
  #groupNorm(at: string, input: string, weights: string, channels: number): string {
    const { network } = this;
    const { build, runType } = network;
    const groups = this.config.normGroups;
    const shape = build.node(`${at}.shape`, "Shape", [input]);
    const width = build.node(`${at}.width`, "Shape", [input], { start: { int: 3 } });
    const leading = [build.ints(0, groups, -1), width];
    const byRow = build.node(`${at}.by_row`, "Concat", leading, { axis: { int: 0 } });
    const given = build.cast(`${at}.in`, input, runType, "float32");
    const grouped = build.node(`${at}.grouped`, "Reshape", [given, byRow]); // [B, groups, rows, w]
    const mean = this.#groupMean(`${at}.mean`, grouped);
    const centred = build.node(`${at}.centred`, "Sub", [grouped, mean]);
    const squares = build.node(`${at}.squares`, "Mul", [centred, centred]);
    const variance = this.#groupMean(`${at}.variance`, squares);
    const padded = network.add(`${at}.padded`, variance, build.scalar("float32", EPSILON));
    const deviation = build.node(`${at}.deviation`, "Sqrt", [padded]); // [B, groups, 1, 1]

    const scale = network.weight(`${weights}.weight`, [channels], "float32");
    const bias = network.weight(`${weights}.bias`, [channels, 1, 1], "float32");
    const inGroup = channels / groups;
    const shaped = build.node(`${at}.scale`, "Reshape", [scale, build.ints(groups, inGroup, 1)]);
    // [B, groups, inGroup, 1]
    const factor = build.node(`${at}.factor`, "Div", [shaped, deviation]);
    const byChannel = build.ints(0, groups, inGroup, -1);
    const planes = build.node(`${at}.planes`, "Reshape", [centred, byChannel]);
    const scaled = build.node(`${at}.scaled`, "Mul", [planes, factor]);
    const whole = build.node(`${at}.whole`, "Reshape", [scaled, shape]);
    return build.cast(`${at}.run`, network.add(at, whole, bias), "float32", runType);
  }

  /**
   * Means of rows, then of those: one sum over a million values would lose bits. Each mean is over
   * the last axis: for one with an axis behind it onnxruntime's CPU provider chooses the order of
   * the sum by the number of threads (measured with 1.30: more threads than groups).
   */
  #groupMean(at: string, grouped: string): string {
    const { build } = this.network;
    const drop = { keepdims: { int: 0 } };
    const perRow = build.node(`${at}.row`, "ReduceMean", [grouped, build.ints(3)], drop);
    const whole = build.node(`${at}.all`, "ReduceMean", [perRow, build.ints(2)]); // [B, groups, 1]
    return build.node(at, "Unsqueeze", [whole, build.ints(3)]);
  }

  /** Every place attends to every place, with one head as wide as the channels. */
  #attention(at: string, input: string, weights: string, channels: number): string {
    const { network } = this;
    const { build } = network;
    const normed = this.#groupNorm(`${at}.norm`, input, `${weights}.group_norm`, channels);
    const flat = build.node(`${at}.flat`, "Reshape", [normed, build.ints(0, 0, -1)]);
    const swap = { perm: { ints: [0, 2, 1] } };
    const tokens = build.node(`${at}.tokens`, "Transpose", [flat], swap);
    const rows = network.rowsShape(`${at}.rows`, tokens);
    const shape = { inputs: channels, outputs: channels, rows };
    const project = (part: string, value: string, ...names: [string, string]): string => {
      const found = network.find(`${weights}.${names[0]}.weight`, `${weights}.${names[1]}.weight`);
      return network.linear(`${at}.${part}`, value, found.replace(/\.weight$/, ""), shape);
    };
    const query = project("q", tokens, "to_q", "query");
    const key = project("k", tokens, "to_k", "key");
    const value = project("v", tokens, "to_v", "value");
    const scale = channels ** -0.5;
    const mixed = attend(network, `${at}.mix`, { query, key, value, heads: 1, scale });
    const out = project("out", mixed, "to_out.0", "proj_attn");
    const planes = build.node(`${at}.planes`, "Transpose", [out], swap);
    const size = build.node(`${at}.size`, "Shape", [input]);
    return network.add(at, input, build.node(`${at}.whole`, "Reshape", [planes, size]));
  }
}
