/**
 * Arithmetic of one denoising step, from the geometry alone: what `model inspect` tells a person
 * before anything has been measured. A multiply and an add are two operations. Counted are matrix
 * products, which are all but a few percent of the work.
 *
 *   linears of a block   2 * 12 * width^2 per token: queries, keys, values, output, feed-forward
 *                        (double blocks have one set for text and one for image tokens)
 *   attention            4 * tokens^2 * width per block
 *   modulation           2 * 12 * width^2 per double, 2 * 3 * width^2 per single block, per row
 */
import type { FluxTransformerConfig } from "./flux-config.ts";

/** Operations of one step of one row. */
export function stepOperations(
  config: FluxTransformerConfig,
  imageTokens: number,
  textTokens: number,
): number {
  const { width, doubleBlocks, singleBlocks, inChannels, outChannels, textWidth } = config;
  const tokens = imageTokens + textTokens;
  const blocks = doubleBlocks + singleBlocks;
  const linears = 2 * 12 * width ** 2 * tokens * blocks;
  const attention = 4 * tokens ** 2 * width * blocks;
  const modulation = 2 * width ** 2 * (12 * doubleBlocks + 3 * singleBlocks);
  const embedders = 2 * width * (imageTokens * (inChannels + outChannels) + textTokens * textWidth);
  return linears + attention + modulation + embedders;
}
