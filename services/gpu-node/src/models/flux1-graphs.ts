/**
 * FLUX.1 as a stage planner and a single rank see it: what can be placed where, and the graphs of
 * one place, without tokenizers, profile or schedule.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type { Graph } from "../core/image-model.ts";
import type { BlockRange, ModelLayout } from "../core/stage-plan.ts";
import type { RunType } from "../onnx/graph.ts";
import { clipTextGraph } from "./clip-text.ts";
import { blockOperations } from "./flux-cost.ts";
import { fluxTransformerGraph, readFluxTransformerConfig } from "./flux-transformer.ts";
import { type Flux1Components, flux1Components } from "./flux1-parts.ts";
import { toGraph } from "./graph.ts";
import type { Recipe } from "./network.ts";
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

interface GraphOptions {
  readonly runType: RunType;
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
  const components = flux1Components(checkpoint);
  const stages = stage === undefined ? [] : [denoiserGraph(components, options, stage)];
  return [...names.map((name) => componentGraph(components, options, name)), ...stages];
}

/** The blocks of one stage, or all of them. */
export function denoiserGraph(
  { transformer }: Flux1Components,
  { runType, recipe }: GraphOptions,
  blocks: BlockRange | undefined,
): Graph {
  return toGraph(fluxTransformerGraph(transformer, runType, blocks, recipe));
}

export function componentGraph(
  { clip, t5, vae }: Flux1Components,
  { runType, recipe }: GraphOptions,
  name: string,
): Graph {
  switch (name) {
    case "clip":
      return toGraph(clipTextGraph(clip, runType, recipe));
    case "t5":
      return toGraph(t5EncoderGraph(t5, runType, recipe));
    default:
      assert(name === "vae", `FLUX.1 has no component ${name}`);
      return toGraph(vaeDecoderGraph(vae, runType, recipe));
  }
}
