/** The layers of which both halves of an autoencoder are made. Values are [B, channels, h, w]. */
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
    const scales = build.floats("upsample.scales", [1, 1, 2, 2]);
    const doubled = build.node(`${at}.doubled`, "Resize", [input, "", scales], {
      mode: { string: "nearest" },
      coordinate_transformation_mode: { string: "asymmetric" },
      nearest_mode: { string: "floor" },
    });
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
    const first = this.normed(`${at}.norm1`, input, `${weights}.norm1`, inputs);
    const middle = this.conv(`${at}.conv1`, first, `${weights}.conv1`, {
      inputs,
      outputs,
      size: 3,
    });
    const second = this.normed(`${at}.norm2`, middle, `${weights}.norm2`, outputs);
    const shape: ConvShape = { inputs: outputs, outputs, size: 3 };
    const change = this.conv(`${at}.conv2`, second, `${weights}.conv2`, shape);
    const shortcut = { inputs, outputs, size: 1 } as const;
    const kept =
      inputs === outputs
        ? input
        : this.conv(`${at}.shortcut`, input, `${weights}.conv_shortcut`, shortcut);
    return this.network.add(at, kept, change);
  }

  /** Group norm, then the activation. */
  normed(at: string, input: string, weights: string, channels: number): string {
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
   * Groups of channels as instances: [B, C, h, w] -> [B, groups, rest] -> norm -> back, then the
   * scale and shift of each channel.
   */
  #groupNorm(at: string, input: string, weights: string, channels: number): string {
    const { network } = this;
    const { build, runType } = network;
    const { normGroups } = this.config;
    const grouped = build.node(`${at}.in`, "Reshape", [input, build.ints(0, normGroups, -1)]);
    const [ones, zeros] = [1, 0].map((value) => build.filled(runType, value, normGroups));
    const inputs = [grouped, ones ?? "", zeros ?? ""];
    const epsilon = { epsilon: { float: EPSILON } };
    const normed = build.node(`${at}.plain`, "InstanceNormalization", inputs, epsilon);
    const shape = build.node(`${at}.shape`, "Shape", [input]);
    const whole = build.node(`${at}.whole`, "Reshape", [normed, shape]);
    const scale = network.weight(`${weights}.weight`, [channels, 1, 1]);
    const bias = network.weight(`${weights}.bias`, [channels, 1, 1]);
    return network.add(at, build.node(`${at}.scaled`, "Mul", [whole, scale]), bias);
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
    const mixed = build.fused(`${at}.mix`, "MultiHeadAttention", [query, key, value], {
      num_heads: { int: 1 },
      scale: { float: channels ** -0.5 },
    });
    const out = project("out", mixed, "to_out.0", "proj_attn");
    const planes = build.node(`${at}.planes`, "Transpose", [out], swap);
    const size = build.node(`${at}.size`, "Shape", [input]);
    return network.add(at, input, build.node(`${at}.whole`, "Reshape", [planes, size]));
  }
}
