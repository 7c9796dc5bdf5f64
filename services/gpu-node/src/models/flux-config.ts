/**
 * The geometry of a FLUX transformer, from its config.json. Keys that the file leaves out have the
 * defaults of diffusers' FluxTransformer2DModel.
 */
import type { Component } from "../core/checkpoint.ts";
import { shown } from "../core/checkpoint-error.ts";
import type { BlockRange } from "../core/stage-plan.ts";

export type { BlockRange } from "../core/stage-plan.ts";

export interface FluxTransformerConfig {
  readonly doubleBlocks: number;
  readonly singleBlocks: number;
  readonly heads: number;
  readonly headWidth: number;
  /** heads * headWidth */
  readonly width: number;
  /** 64 for text to image, 128 with a control picture, 384 for filling. */
  readonly inChannels: number;
  readonly outChannels: number;
  /** Width of the text that the image attends to. */
  readonly textWidth: number;
  readonly pooledWidth: number;
  /** Whether the guidance scale is an input. */
  readonly guidance: boolean;
  /** Channels of a head that rotate with each position axis; their sum is headWidth. */
  readonly axesDims: readonly number[];
}

/** Width of feed-forward layers over the width of the stream; a constant of the architecture. */
export const FEED_FORWARD_RATIO = 4;

export function readFluxTransformerConfig({ config }: Component): FluxTransformerConfig {
  config.oneOf("_class_name", ["FluxTransformer2DModel"], "FluxTransformer2DModel");
  config.integer("patch_size", { min: 1, max: 1, fallback: 1 });
  const heads = config.integer("num_attention_heads", { min: 1, fallback: 24 });
  const headWidth = config.integer("attention_head_dim", { min: 2, fallback: 128 });
  const axesDims = config.integers("axes_dims_rope", { min: 2, fallback: [16, 56, 56] });
  const rotated = axesDims.reduce((sum, dim) => sum + dim, 0);
  if (rotated !== headWidth || axesDims.some((dim) => dim % 2 !== 0) || axesDims.length !== 3) {
    const rule = `use three even numbers whose sum is attention_head_dim, ${headWidth}`;
    throw config.error("axes_dims_rope", `is ${shown(axesDims)}; ${rule}`);
  }
  const doubleBlocks = config.integer("num_layers", { min: 0, fallback: 19 });
  const singleBlocks = config.integer("num_single_layers", { min: 0, fallback: 38 });
  if (doubleBlocks + singleBlocks === 0) {
    throw config.error("num_layers", "is 0, as is num_single_layers; a transformer has blocks");
  }
  const inChannels = config.integer("in_channels", { min: 1, fallback: 64 });
  return {
    doubleBlocks,
    singleBlocks,
    heads,
    headWidth,
    axesDims,
    inChannels,
    width: heads * headWidth,
    outChannels: config.integer("out_channels", { min: 1, fallback: inChannels }),
    textWidth: config.integer("joint_attention_dim", { min: 1, fallback: 4096 }),
    pooledWidth: config.integer("pooled_projection_dim", { min: 1, fallback: 768 }),
    guidance: config.boolean("guidance_embeds", false),
  };
}

/** Blocks are counted together: double blocks, then single blocks. */
export function allBlocks(config: FluxTransformerConfig): BlockRange {
  return { first: 0, end: config.doubleBlocks + config.singleBlocks };
}
