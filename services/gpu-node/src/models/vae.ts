/**
 * The autoencoder: pictures to latents and back. Both halves are a ladder of levels, each twice
 * the size of the next, with a middle that also attends across the whole picture.
 *
 *   encoder  picture -> conv -> levels down -> middle -> norm, conv -> mean and log variance
 *   decoder  latents -> conv -> middle -> levels up -> norm, conv -> picture
 */
import type { Component } from "../core/checkpoint.ts";
import type { OnnxGraph, RunType } from "../onnx/graph.ts";
import { Network, type Recipe } from "./network.ts";
import { readVaeConfig } from "./vae-config.ts";
import { VaeLayers } from "./vae-layers.ts";

export { readVaeConfig, type VaeConfig } from "./vae-config.ts";

/**
 * Input: `latent_sample` [B, latentChannels, h, w], scaling and shift undone. Output: `sample`
 * [B, 3, scale * h, scale * w] in -1 .. 1, not clamped.
 */
export function vaeDecoderGraph(part: Component, runType: RunType, recipe?: Recipe): OnnxGraph {
  const config = readVaeConfig(part);
  const network = new Network(part, `${part.name}.decoder`, runType, recipe);
  const layers = new VaeLayers(network, config);
  const { latentChannels, layersPerBlock, imageChannels } = config;
  const levels = config.levelChannels.toReversed();
  const deepest = levels[0] ?? 0;

  let value = network.floatInput("latent_sample", ["B", latentChannels, "h", "w"]);
  if (config.postQuantConv) {
    const shape = { inputs: latentChannels, outputs: latentChannels, size: 1 } as const;
    value = layers.conv("post_quant", value, "post_quant_conv", shape);
  }
  const first = { inputs: latentChannels, outputs: deepest, size: 3 } as const;
  value = layers.conv("conv_in", value, "decoder.conv_in", first);
  value = layers.middle("mid", value, "decoder.mid_block", deepest);
  let inputs = deepest;
  for (const [level, outputs] of levels.entries()) {
    const weights = `decoder.up_blocks.${level}`;
    for (let layer = 0; layer <= layersPerBlock; layer++) {
      const at = `up.${level}.${layer}`;
      value = layers.residual(at, value, `${weights}.resnets.${layer}`, { inputs, outputs });
      inputs = outputs;
    }
    if (level < levels.length - 1) {
      value = layers.upsample(`up.${level}.upsample`, value, weights, outputs);
    }
  }
  value = layers.finalNormed("norm_out", value, "decoder.conv_norm_out", inputs);
  const last = { inputs, outputs: imageChannels.out, size: 3 } as const;
  value = layers.conv("conv_out", value, "decoder.conv_out", last);
  const [height, width] = [`${config.scale}*h`, `${config.scale}*w`];
  network.floatOutput("sample", value, ["B", imageChannels.out, height, width]);
  return network.build.graph;
}

/**
 * Input: `sample` [B, 3, scale * h, scale * w] in -1 .. 1. Output: `moments`
 * [B, 2 * latentChannels, h, w]: mean, then log variance (not clamped), of latents without scaling
 * and shift.
 */
export function vaeEncoderGraph(part: Component, runType: RunType, recipe?: Recipe): OnnxGraph {
  const config = readVaeConfig(part);
  const network = new Network(part, `${part.name}.encoder`, runType, recipe);
  const layers = new VaeLayers(network, config);
  const { layersPerBlock, imageChannels, levelChannels } = config;
  const moments = 2 * config.latentChannels;

  let value = network.floatInput("sample", ["B", imageChannels.in, "H", "W"]);
  let inputs = levelChannels[0] ?? 0;
  const first = { inputs: imageChannels.in, outputs: inputs, size: 3 } as const;
  value = layers.conv("conv_in", value, "encoder.conv_in", first);
  for (const [level, outputs] of levelChannels.entries()) {
    const weights = `encoder.down_blocks.${level}`;
    for (let layer = 0; layer < layersPerBlock; layer++) {
      const at = `down.${level}.${layer}`;
      value = layers.residual(at, value, `${weights}.resnets.${layer}`, { inputs, outputs });
      inputs = outputs;
    }
    if (level < levelChannels.length - 1) {
      value = layers.downsample(`down.${level}.downsample`, value, weights, outputs);
    }
  }
  value = layers.middle("mid", value, "encoder.mid_block", inputs);
  value = layers.finalNormed("norm_out", value, "encoder.conv_norm_out", inputs);
  const last = { inputs, outputs: moments, size: 3 } as const;
  value = layers.conv("conv_out", value, "encoder.conv_out", last);
  if (config.quantConv) {
    const shape = { inputs: moments, outputs: moments, size: 1 } as const;
    value = layers.conv("quant", value, "quant_conv", shape);
  }
  network.floatOutput("moments", value, ["B", moments, "h", "w"]);
  return network.build.graph;
}
