/**
 * Bytes and operations of a FLUX.1 checkpoint, block by block, for the stage planner. Weights are
 * counted in the very graphs that run; working memory and operations follow formulas, each stated
 * here and in docs/sizing.md, with e the bytes of an element in the compute type, d the width of the
 * stream, S = T + I the tokens of text and image.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import { PATCH } from "../core/latents.ts";
import type {
  BlockSize,
  ComponentSize,
  ModelSizes,
  PlanShape,
  SizingRequest,
  Slopes,
} from "../core/model-sizes.ts";
import type { QuantisedPlace } from "../core/quantised-file.ts";
import { FLOAT_BYTES } from "../onnx/float-bits.ts";
import type { RunType } from "../onnx/graph.ts";
import { type ClipTextConfig, clipTextGraph, readClipTextConfig } from "./clip-text.ts";
import { blockOperations } from "./flux-cost.ts";
import { fluxTransformerGraph, readFluxTransformerConfig } from "./flux-transformer.ts";
import { type Flux1Components, flux1Components } from "./flux1-parts.ts";
import { FLUX1_LIMITS, flux1Steps } from "./flux1-profile.ts";
import { computeType, loadedBytes } from "./loaded-bytes.ts";
import { readT5EncoderConfig, type T5EncoderConfig, t5EncoderGraph } from "./t5-encoder.ts";
import { readVaeConfig, type VaeConfig, vaeDecoderGraph } from "./vae.ts";

/**
 * Tensors of [S, d] that live at the worst point of a block: in a single block, while it attends, the
 * stream, the wide half of its feed-forward layer (4), queries, keys and values, their copies by
 * head, and the result: 1 + 4 + 3 + 3 + 1. In a double block the wide half comes after the attention.
 */
const LIVE_IN_SINGLE = 12;
const LIVE_IN_DOUBLE = 9;
/**
 * The runtime's allocator takes memory in regions of powers of two and fills them as it can. Measured
 * on the CPU provider it holds 1.3 to 2.0 times what lives in a step, most often 1.5 times; 1.1 to 1.4
 * times in T5; and in the autoencoder 1.3 times where its largest tensor is itself a power of two, up
 * to 1.8 times where it is just above one (docs/sizing.md). On a GPU, where nothing was measured, a
 * region counts as soon as it is taken, filled or not: a step is given more there.
 */
const ARENA = { step: 1.5, stepElsewhere: 1.75, encoder: 1.4, decoder: 1.3, decoderWaste: 0.45 };
/** At full size the decoder's norm holds four tensors of its widest channels, in float32. */
const LIVE_IN_DECODER = 4;
const CLIP_TOKENS = 77;

/** @throws AppError naming file, key and value of what is wrong with a network's config */
export function flux1Sizes(checkpoint: Checkpoint, request: SizingRequest): ModelSizes {
  const components = flux1Components(checkpoint);
  const type = computeType(request.precision, request.provider);
  // Where the files would lie changes no size.
  const place = { folder: "/", model: checkpoint.digest };
  const quantised = request.precision === "int8" ? place : undefined;
  return {
    blocks: blockSizes(components, request, type, quantised),
    components: [
      clipSize(components, request, type),
      t5Size(components, request, type, quantised),
      vaeSize(components, request, type),
    ],
    cuts: cutSizes(components, type),
  };
}

export function flux1PlanShape(checkpoint: Checkpoint): PlanShape {
  const { guidance } = readFluxTransformerConfig(flux1Components(checkpoint).transformer);
  return { textTokens: FLUX1_LIMITS.maxSequenceLengthMax, steps: flux1Steps(guidance) };
}

function blockSizes(
  { transformer, vae }: Flux1Components,
  request: SizingRequest,
  type: RunType,
  quantised: QuantisedPlace | undefined,
): BlockSize[] {
  const config = readFluxTransformerConfig(transformer);
  const pixelsPerToken = (readVaeConfig(vae).scale * PATCH) ** 2;
  const { provider, pixels, textTokens } = request;
  const operations = blockOperations(config, pixels / pixelsPerToken, textTokens);
  const arena = provider === "cpu" ? ARENA.step : ARENA.stepElsewhere;
  const last = operations.length - 1;
  const known = new Map<string, number>();
  const weightsOf = (block: number): number => {
    const isDouble = block < config.doubleBlocks;
    const kind = `${block === 0} ${block === last} ${isDouble}`;
    const blocks = { first: block, end: block + 1 };
    const bytes =
      known.get(kind) ??
      loadedBytes(fluxTransformerGraph(transformer, type, blocks, "fused", quantised), provider);
    known.set(kind, bytes);
    return bytes;
  };
  return operations.map((work, block) => {
    const live = block < config.doubleBlocks ? LIVE_IN_DOUBLE : LIVE_IN_SINGLE;
    const perTextToken = arena * live * config.width * FLOAT_BYTES[type];
    return {
      weightBytes: weightsOf(block),
      operations: work,
      working: { perPixel: perTextToken / pixelsPerToken, perTextToken },
    };
  });
}

/** img, txt or both joined: S tokens, in float16 if that is computed with, else in float32. */
function cutSizes({ transformer, vae }: Flux1Components, type: RunType): Slopes[] {
  const { width, doubleBlocks, singleBlocks } = readFluxTransformerConfig(transformer);
  const pixelsPerToken = (readVaeConfig(vae).scale * PATCH) ** 2;
  const perTextToken = width * FLOAT_BYTES[type === "float16" ? type : "float32"];
  const cut = { perPixel: perTextToken / pixelsPerToken, perTextToken };
  const none = { perPixel: 0, perTextToken: 0 };
  const blocks = doubleBlocks + singleBlocks;
  return Array.from({ length: blocks + 1 }, (_, at) => (at === 0 || at === blocks ? none : cut));
}

/**
 * Always as many tokens as its tokenizer pads to: a fixed amount, of which 2 x (width + feed-forward
 * width) values live for each token.
 */
function clipSize({ clip }: Flux1Components, request: SizingRequest, type: RunType): ComponentSize {
  const config = readClipTextConfig(clip);
  const { width, feedForwardWidth } = config;
  const graph = clipTextGraph(clip, type);
  const tokens = Math.min(CLIP_TOKENS, config.positions);
  const live = 2 * (width + feedForwardWidth) * tokens;
  return {
    name: "clip",
    use: "encode",
    weightBytes: loadedBytes(graph, request.provider),
    operations: clipOperations(config, tokens),
    working: {
      perPixel: 0,
      perTextToken: 0,
      fixedBytes: Math.ceil(ARENA.encoder * live * FLOAT_BYTES[type]),
    },
  };
}

/**
 * T tokens: 2 x heads x T^2 values of the learned bias while it is turned, then it and the scores;
 * and 2 x (width + feed-forward width) for each token. Taken at the longest text, where the square
 * has grown most: for shorter ones it is more than enough.
 */
function t5Size(
  { t5 }: Flux1Components,
  request: SizingRequest,
  type: RunType,
  quantised: QuantisedPlace | undefined,
): ComponentSize {
  const config = readT5EncoderConfig(t5);
  const { heads, width, feedForwardWidth } = config;
  const longest = Math.max(FLUX1_LIMITS.maxSequenceLengthMax, request.textTokens);
  const live = 2 * heads * longest + 2 * (width + feedForwardWidth);
  return {
    name: "t5",
    use: "encode",
    weightBytes: loadedBytes(t5EncoderGraph(t5, type, "fused", quantised), request.provider),
    operations: t5Operations(config, request.textTokens),
    working: {
      perPixel: 0,
      perTextToken: ARENA.encoder * live * FLOAT_BYTES[type],
      fixedBytes: 0,
    },
  };
}

/**
 * At full size, where pixels are most and channels still those of the level below. `waste` is how
 * far the largest tensor is from the region that it is put into.
 */
function vaeSize({ vae }: Flux1Components, request: SizingRequest, type: RunType): ComponentSize {
  const config = readVaeConfig(vae);
  const [last = 0, before = last] = config.levelChannels;
  const tensorPerPixel = Math.max(last, before) * FLOAT_BYTES.float32;
  const largest = tensorPerPixel * request.pixels;
  const waste = 2 ** Math.ceil(Math.log2(largest)) / largest - 1;
  const arena = ARENA.decoder + ARENA.decoderWaste * waste;
  return {
    name: "vae",
    use: "decode",
    weightBytes: loadedBytes(vaeDecoderGraph(vae, type), request.provider),
    operations: vaeOperationsPerPixel(config) * request.pixels,
    working: {
      perPixel: arena * LIVE_IN_DECODER * tensorPerPixel,
      perTextToken: 0,
      fixedBytes: 0,
    },
  };
}

/** A multiply and an add are two; matrix products only, as in flux-cost.ts. */
function clipOperations({ layers, width, feedForwardWidth }: ClipTextConfig, tokens: number) {
  const linears = 2 * tokens * (4 * width ** 2 + 2 * width * feedForwardWidth);
  return layers * (linears + 4 * tokens ** 2 * width);
}

function t5Operations(config: T5EncoderConfig, tokens: number): number {
  const { layers, width, heads, headWidth, feedForwardWidth, gated } = config;
  const inner = heads * headWidth;
  const linears = 4 * width * inner + (gated ? 3 : 2) * width * feedForwardWidth;
  return layers * (2 * tokens * linears + 4 * tokens ** 2 * inner);
}

/** Convolutions of the decoder, for one pixel of the picture: level l has 4^l pixels for one. */
export function vaeOperationsPerPixel(config: VaeConfig): number {
  const { levelChannels, layersPerBlock, latentChannels, imageChannels } = config;
  const conv = (inputs: number, outputs: number): number => 2 * 9 * inputs * outputs;
  const deepest = levelChannels.at(-1);
  assert(deepest !== undefined, "an autoencoder has a level");
  let inputs = deepest;
  let operations = (conv(latentChannels, deepest) + 4 * conv(deepest, deepest)) / config.scale ** 2;
  for (const [level, outputs] of [...levelChannels.entries()].toReversed()) {
    const share = 1 / 4 ** level;
    for (let layer = 0; layer <= layersPerBlock; layer++) {
      const shortcut = inputs === outputs ? 0 : 2 * inputs * outputs;
      operations += share * (conv(inputs, outputs) + conv(outputs, outputs) + shortcut);
      inputs = outputs;
    }
    if (level > 0) operations += 4 * share * conv(outputs, outputs);
  }
  return operations + conv(inputs, imageChannels.out);
}
