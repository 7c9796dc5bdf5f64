/**
 * The geometry of an autoencoder, from its config.json. Keys that the file leaves out have the
 * defaults of diffusers' AutoencoderKL.
 */
import { shown } from "../core/checkpoint-error.ts";
import type { Component } from "../core/checkpoint.ts";
import type { JsonConfig } from "../core/json-config.ts";
import { readActivation, type Activation } from "./activation.ts";

export interface VaeConfig {
  readonly imageChannels: { readonly in: number; readonly out: number };
  readonly latentChannels: number;
  /** Of each level, from the image's size to the latents'. */
  readonly levelChannels: readonly number[];
  /** Residual blocks of a level in the encoder; the decoder has one more. */
  readonly layersPerBlock: number;
  readonly normGroups: number;
  readonly activation: Activation;
  readonly middleAttention: boolean;
  readonly quantConv: boolean;
  readonly postQuantConv: boolean;
  /** Pixels of the image for one of the latents, along each side. */
  readonly scale: number;
  /** latents = (z - shiftFactor) * scalingFactor */
  readonly scalingFactor: number;
  readonly shiftFactor: number;
}

export function readVaeConfig({ config }: Component): VaeConfig {
  config.oneOf("_class_name", ["AutoencoderKL"], "AutoencoderKL");
  const levelChannels = config.integers("block_out_channels", { fallback: [64] });
  checkLevels(config, "down_block_types", "DownEncoderBlock2D", levelChannels.length);
  checkLevels(config, "up_block_types", "UpDecoderBlock2D", levelChannels.length);
  const normGroups = config.integer("norm_num_groups", { min: 1, fallback: 32 });
  if (levelChannels.some((channels) => channels % normGroups !== 0)) {
    const rule = `it must divide every one of block_out_channels ${shown(levelChannels)}`;
    throw config.error("norm_num_groups", `is ${normGroups}; ${rule}`);
  }
  return {
    levelChannels,
    normGroups,
    imageChannels: {
      in: config.integer("in_channels", { min: 1, fallback: 3 }),
      out: config.integer("out_channels", { min: 1, fallback: 3 }),
    },
    latentChannels: config.integer("latent_channels", { min: 1, fallback: 4 }),
    layersPerBlock: config.integer("layers_per_block", { min: 1, fallback: 1 }),
    activation: readActivation(config, "act_fn", "silu"),
    middleAttention: config.boolean("mid_block_add_attention", true),
    quantConv: config.boolean("use_quant_conv", true),
    postQuantConv: config.boolean("use_post_quant_conv", true),
    scale: 2 ** (levelChannels.length - 1),
    scalingFactor: config.number("scaling_factor", { above: 0, fallback: 0.18215 }),
    shiftFactor: config.number("shift_factor", { fallback: 0 }),
  };
}

/** One block of the only supported kind for each level. */
function checkLevels(config: JsonConfig, key: string, kind: string, levels: number): void {
  if (!config.has(key) && levels === 1) return;
  const kinds = config.strings(key);
  const unknown = kinds.find((found) => found !== kind);
  if (unknown !== undefined) {
    throw config.error(key, `has ${shown(unknown)}; supported: ${kind}`);
  }
  if (kinds.length !== levels) {
    const rule = `block_out_channels has ${levels}; both must list every level`;
    throw config.error(key, `has ${kinds.length} entries, but ${rule}`);
  }
}
