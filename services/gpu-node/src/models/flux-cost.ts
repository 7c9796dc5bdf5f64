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
  return blockOperations(config, imageTokens, textTokens).reduce((sum, block) => sum + block, 0);
}

/**
 * The same, block by block: double blocks, then single blocks. What comes before the first block
 * counts with it, what comes after the last with that.
 */
export function blockOperations(
  config: FluxTransformerConfig,
  imageTokens: number,
  textTokens: number,
): number[] {
  const { width, doubleBlocks, singleBlocks, inChannels, outChannels, textWidth } = config;
  const tokens = imageTokens + textTokens;
  const streams = 2 * 12 * width ** 2 * tokens + 4 * tokens ** 2 * width;
  const blocks = Array.from({ length: doubleBlocks + singleBlocks }, (_, block) => {
    return streams + 2 * width ** 2 * (block < doubleBlocks ? 12 : 3);
  });
  blocks[0]! += 2 * width * (imageTokens * inChannels + textTokens * textWidth);
  blocks[blocks.length - 1]! += 2 * width * imageTokens * outChannels;
  return blocks;
}
