/**
 * The FLUX.1 family: how a checkpoint in diffusers layout becomes an `ImageModel`. It says which
 * networks there are and what surrounds the denoiser in each step, in the order and with the
 * roundings of diffusers' FluxPipeline.
 *
 *   prompt   -> CLIP -> pooled_projections    --+
 *   prompt_2 -> T5   -> encoder_hidden_states --+--> transformer -> velocity -> Euler step
 *   noise    -> packed latents, sinusoids     --+
 *
 * Noise and latents between steps are float32 whatever the run type.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { MemoryBound } from "@fluxline/kernel/memory-bound.ts";
import type { ImageRequest } from "@fluxline/kernel/image-request.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type {
  Graph,
  ImageModel,
  ImagePlan,
  LatentCells,
  Predictions,
  RequestCost,
} from "../core/image-model.ts";
import {
  latentSize,
  type LatentSize,
  packedSize,
  packLatents,
  toPixels,
  undoScaling,
  unpackLatents,
} from "../core/latents.ts";
import { NOISE_BLOCK, TorchGenerator } from "../core/noise.ts";
import { combineGuidance, eulerStep, makeSchedule } from "../core/sigmas.ts";
import { float32Tensor, int64Tensor, type NamedTensors } from "../core/tensor.ts";
import type { RunType } from "../onnx/graph.ts";
import { readFluxTransformerConfig } from "./flux-config.ts";
import { stepOperations } from "./flux-cost.ts";
import {
  guidanceEmbedding,
  imagePositions,
  ropeTables,
  SINUSOID_WIDTH,
  textPositions,
  timestepEmbedding,
} from "./flux-positions.ts";
import type { BlockRange } from "./flux-transformer.ts";
import { componentGraph, denoiserGraph } from "./flux1-graphs.ts";
import { type Flux1Parts, readFlux1Parts } from "./flux1-parts.ts";
import { FLUX1_LIMITS, type Flux1Limits, flux1Profile } from "./flux1-profile.ts";
import { encodeText, negativeText, positiveText } from "./flux1-text.ts";
import type { Recipe } from "./network.ts";
import { type Computation, computationKey } from "./precision.ts";

export { FLUX1_PIPELINES } from "./flux1-parts.ts";
export { FLUX1_LIMITS, type Flux1Limits } from "./flux1-profile.ts";

export interface Flux1Options extends Computation {
  /** How attention is built; `portable` where a provider's fused operator is wrong. */
  readonly recipe?: Recipe | undefined;
  /** Stages of the transformer, in order and without a gap; default: one, of all blocks. */
  readonly stages?: readonly BlockRange[];
  /** Components on a processor beside other devices: they compute in float32 there. */
  readonly onHost?: ReadonlySet<string>;
  readonly memory?: readonly MemoryBound[];
  readonly limits?: Partial<Flux1Limits>;
}

/** @throws AppError naming file, key and value of what is wrong with the checkpoint */
export function describeFlux1(checkpoint: Checkpoint, options: Flux1Options): ImageModel {
  const { runType } = options;
  const parts = readFlux1Parts(checkpoint);
  const weights = { components: parts.components, digest: checkpoint.digest };
  const stages = (options.stages ?? [undefined]).map((blocks) =>
    denoiserGraph(weights, options, blocks),
  );
  const placed = (name: string): Graph => {
    const isOnHost = options.onHost?.has(name) === true;
    return componentGraph(weights, isOnHost ? { ...options, runType: "float32" } : options, name);
  };
  const [clip, t5, decoder] = [placed("clip"), placed("t5"), placed("vae")];
  const graphs = [clip, t5, ...stages, decoder];
  const planner = new Planner(parts, options, checkpoint.digest, stages);
  return {
    profile: {
      ...flux1Profile(checkpoint, parts, runType, { ...FLUX1_LIMITS, ...options.limits }),
      memory: options.memory ?? [],
    },
    graphs: new Map(graphs.map((graph) => [graph.name, graph])),
    denoiser: stages.map(({ name }) => name),
    prediction: "sample",
    decoder: decoder.name,
    decoded: "sample",
    cellChannels: parts.vae.latentChannels,
    decodeCells: (cells) => planner.decodeCells(cells),
    plan: (request) => planner.plan(request),
    cost: (request) => planner.cost(request),
  };
}

class Planner {
  readonly #parts: Flux1Parts;
  readonly #runType: RunType;
  readonly #computation: string;
  readonly #model: string;
  /** Stages that begin among the single blocks must be told where text ends and image begins. */
  readonly #wantsTextLength: boolean;

  constructor(
    parts: Flux1Parts,
    computation: Computation,
    digest: string,
    stages: readonly Graph[],
  ) {
    this.#parts = parts;
    this.#runType = computation.runType;
    this.#computation = computationKey(computation);
    this.#model = `${digest} ${this.#computation}`;
    this.#wantsTextLength = stages.some(({ inputs }) =>
      inputs.some(({ name }) => name === "text_length"),
    );
  }

  plan(request: ImageRequest): ImagePlan {
    const { width, height, maxSequenceLength } = request;
    const parts = this.#parts;
    const size = latentSize(width, height, parts.vae.scale, parts.vae.latentChannels);
    const packed = packedSize(size);
    const negative = negativeText(request);
    const encode = (text: Parameters<typeof encodeText>[2]) =>
      encodeText(parts, this.#model, text, maxSequenceLength);
    const texts = {
      positive: encode(positiveText(request)),
      ...(negative === undefined ? {} : { negative: encode(negative) }),
    };
    const { steps, trueCfgScale } = request;
    const { sigmas, timesteps } = makeSchedule(parts.schedule, steps, packed.tokens);
    const velocity = ({ positive, negative: away }: Predictions): Float32Array => {
      assert((away !== undefined) === (negative !== undefined), "passes of the plan");
      return away === undefined ? positive : combineGuidance(positive, away, trueCfgScale);
    };
    return {
      request,
      steps,
      advisories: [...texts.positive.advisories, ...(texts.negative?.advisories ?? [])],
      shapeKey: `flux1/${width}x${height}/text${maxSequenceLength}/${this.#computation}`,
      latentDims: [packed.tokens, packed.channels],
      encodings: {
        positive: texts.positive.encoding,
        ...(texts.negative === undefined ? {} : { negative: texts.negative.encoding }),
      },
      initialLatents: () => initialLatents(request, size),
      sharedInputs: () => this.#sharedInputs(size, maxSequenceLength),
      rowInputs: (step, latents) =>
        this.#rowInputs(latents, packed, timesteps[step]!, request.guidance),
      advance: (step, latents, predictions) =>
        eulerStep(latents, velocity(predictions), sigmas[step]!, sigmas[step + 1]!),
      estimate: (step, latents, predictions) =>
        eulerStep(latents, velocity(predictions), sigmas[step]!, sigmas[steps]!),
      cells: (latents) => toCells(latents, size),
      decodeInputs: (latents) => this.decodeCells(toCells(latents, size)),
      pixels: toPixels,
    };
  }

  cost(request: ImageRequest): RequestCost {
    const { vae, components } = this.#parts;
    const size = latentSize(request.width, request.height, vae.scale, vae.latentChannels);
    const { tokens: imageTokens, channels } = packedSize(size);
    const textTokens = request.maxSequenceLength;
    const config = readFluxTransformerConfig(components.transformer);
    return {
      imageTokens,
      textTokens,
      passes: negativeText(request) === undefined ? 1 : 2,
      stepOperations: stepOperations(config, imageTokens, textTokens),
      latentBytes: imageTokens * channels * Float32Array.BYTES_PER_ELEMENT,
    };
  }

  #sharedInputs(size: LatentSize, textLength: number): NamedTensors {
    const { rows, columns } = packedSize(size);
    const positions = [...textPositions(textLength), ...imagePositions(rows, columns)];
    const { cos, sin } = ropeTables(this.#parts.transformer.axesDims, positions);
    const tables = { rope_cos: cos, rope_sin: sin };
    return this.#wantsTextLength
      ? { ...tables, text_length: int64Tensor([textLength], [1]) }
      : tables;
  }

  #rowInputs(
    latents: Float32Array,
    packed: { readonly tokens: number; readonly channels: number },
    timestep: number,
    guidance: number,
  ): NamedTensors {
    const sinusoid = (values: Float32Array) => float32Tensor(values, [1, SINUSOID_WIDTH]);
    const inputs = {
      hidden_states: float32Tensor(latents, [1, packed.tokens, packed.channels]),
      timestep_embedding: sinusoid(timestepEmbedding(timestep, this.#runType)),
    };
    if (!this.#parts.transformer.guidance) return inputs;
    const embedded = guidanceEmbedding(guidance, this.#runType);
    return { ...inputs, guidance_embedding: sinusoid(embedded) };
  }

  decodeCells({ channels, height, width, values }: LatentCells): NamedTensors {
    const { scalingFactor, shiftFactor } = this.#parts.vae;
    const sample = undoScaling(values, scalingFactor, shiftFactor);
    return { latent_sample: float32Tensor(sample, [1, channels, height, width]) };
  }
}

function toCells(latents: Float32Array, size: LatentSize): LatentCells {
  return { ...size, values: unpackLatents(latents, size) };
}

/**
 * One draw for all images of the request, as diffusers makes it with one generator, cut into one
 * array per image and packed.
 */
/**
 * torch draws the noise of all images at once, in blocks of `NOISE_BLOCK` values. Image by image
 * that is the same noise as long as an image ends where a block ends.
 */
function* initialLatents(request: ImageRequest, size: LatentSize): Generator<Float32Array> {
  const values = size.channels * size.height * size.width;
  const generator = new TorchGenerator(request.seed);
  const images = values % NOISE_BLOCK === 0 ? 1 : request.imageCount;
  for (let drawn = 0; drawn < request.imageCount; drawn += images) {
    const noise = generator.normal(images * values);
    for (let image = 0; image < images; image++) {
      yield packLatents(noise.subarray(image * values, (image + 1) * values), size);
    }
  }
}
