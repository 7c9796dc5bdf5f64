/**
 * FLUX.1 as a stage planner and a single rank see it: what can be placed where, and the graphs of
 * one place, without tokenizers, profile or schedule.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type { Graph } from "../core/image-model.ts";
import type { QuantisedPlace } from "../core/quantised-file.ts";
import type { BlockRange, ModelLayout } from "../core/stage-plan.ts";
import { clipTextGraph } from "./clip-text.ts";
import { blockOperations } from "./flux-cost.ts";
import { fluxTransformerGraph, readFluxTransformerConfig } from "./flux-transformer.ts";
import { type Flux1Components, flux1Components } from "./flux1-parts.ts";
import { toGraph } from "./graph.ts";
import type { Recipe } from "./network.ts";
import type { Computation } from "./precision.ts";
import { t5EncoderGraph } from "./t5-encoder.ts";
import { vaeDecoderGraph } from "./vae.ts";

/** The size at which blocks are weighed against one another: 1024x1024 with 512 text tokens. */
const REFERENCE_IMAGE_TOKENS = 4096;
const REFERENCE_TEXT_TOKENS = 512;

const COMPONENTS: ModelLayout["components"] = [
  { name: "clip", graph: "text_encoder", use: "encode" },
  { name: "t5", graph: "text_encoder_2", use: "encode" },
  { name: "vae", graph: "vae.decoder", use: "decode" },
];

interface GraphOptions extends Computation {
  readonly recipe?: Recipe | undefined;
}

/** @throws AppError naming file, key and value of what is wrong with the transformer */
export function flux1Layout(checkpoint: Checkpoint): ModelLayout {
  const config = readFluxTransformerConfig(flux1Components(checkpoint).transformer);
  return {
    blockCosts: blockOperations(config, REFERENCE_IMAGE_TOKENS, REFERENCE_TEXT_TOKENS),
    components: COMPONENTS,
  };
}

/** The networks of one checkpoint, and its digest, by which what is made of them is named. */
interface Flux1Weights {
  readonly components: Flux1Components;
  readonly digest: string;
}

/** What one place holds: a stage of the denoiser, components by name, or both. */
export interface GraphSelection {
  readonly stage?: BlockRange | undefined;
  readonly components: readonly string[];
}

export function flux1Graphs(
  checkpoint: Checkpoint,
  options: GraphOptions,
  { stage, components: names }: GraphSelection,
): Graph[] {
  const weights = { components: flux1Components(checkpoint), digest: checkpoint.digest };
  const stages = stage === undefined ? [] : [denoiserGraph(weights, options, stage)];
  return [...names.map((name) => componentGraph(weights, options, name)), ...stages];
}

/** The blocks of one stage, or all of them. */
export function denoiserGraph(
  { components: { transformer }, digest }: Flux1Weights,
  { runType, recipe, quantisedFolder }: GraphOptions,
  blocks: BlockRange | undefined,
): Graph {
  const quantised = quantisedPlace(quantisedFolder, digest);
  return toGraph(fluxTransformerGraph(transformer, runType, blocks, recipe, quantised));
}

export function componentGraph(
  { components: { clip, t5, vae }, digest }: Flux1Weights,
  { runType, recipe, quantisedFolder }: GraphOptions,
  name: string,
): Graph {
  switch (name) {
    case "clip":
      return toGraph(clipTextGraph(clip, runType, recipe));
    case "t5": {
      const quantised = quantisedPlace(quantisedFolder, digest);
      return toGraph(t5EncoderGraph(t5, runType, recipe, quantised));
    }
    default:
      assert(name === "vae", `FLUX.1 has no component ${name}`);
      return toGraph(vaeDecoderGraph(vae, runType, recipe));
  }
}

function quantisedPlace(folder: string | undefined, model: string): QuantisedPlace | undefined {
  return folder === undefined ? undefined : { folder, model };
}
