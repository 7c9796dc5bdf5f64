/**
 * The denoiser of FLUX.1: predicts the velocity of packed latents. Any contiguous range of its
 * blocks is a graph of its own, so that a pipeline can be cut anywhere; the tensors between two
 * stages are the same whichever blocks stand on either side.
 *
 *   hidden_states -> img --+                              +--> img tokens -> norm -> sample
 *                          +-- double blocks -- x = txt,img -- single blocks
 *   encoder_hidden_states -> txt --+
 *   timestep, guidance, pooled -> temb, which modulates every block
 *
 * Between double blocks and before the first single block a stage hands on img, txt and temb;
 * after that x and temb.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Component } from "../core/checkpoint.ts";
import type { QuantisedPlace } from "../core/quantised-file.ts";
import type { OnnxGraph, RunType } from "../onnx/graph.ts";
import { doubleBlock, singleBlock } from "./flux-blocks.ts";
import {
  allBlocks,
  readFluxTransformerConfig,
  type BlockRange,
  type FluxTransformerConfig,
} from "./flux-config.ts";
import { FINAL_NORM, FluxLayers, type Stream } from "./flux-layers.ts";
import { SINUSOID_WIDTH } from "./flux-positions.ts";
import { Network, type Recipe } from "./network.ts";

export {
  allBlocks,
  readFluxTransformerConfig,
  type BlockRange,
  type FluxTransformerConfig,
} from "./flux-config.ts";

/** What a last stage that gets text and image joined must be told. */
const TEXT_LENGTH = "text_length";

/** Inputs and outputs: see README.md of the service. */
export function fluxTransformerGraph(
  part: Component,
  runType: RunType,
  blocks?: BlockRange,
  recipe?: Recipe,
  quantised?: QuantisedPlace,
): OnnxGraph {
  const config = readFluxTransformerConfig(part);
  const all = allBlocks(config);
  const { first, end } = blocks ?? all;
  assert(0 <= first && first < end && end <= all.end, `no blocks ${first} to ${end} of ${all.end}`);
  const whole = first === 0 && end === all.end;
  const name = whole ? part.name : `${part.name}.${first}-${end - 1}`;
  const network = new Network(part, name, runType, recipe, quantised);
  return new Stage(network, config, { first, end }).graph();
}

class Stage {
  readonly #network: Network;
  readonly #config: FluxTransformerConfig;
  readonly #blocks: BlockRange;
  readonly #layers: FluxLayers;
  readonly #last: number;
  /** float16 as it is; the runtime cannot pass bfloat16, whose values float32 holds exactly. */
  readonly #edge: "float32" | "float16";

  constructor(network: Network, config: FluxTransformerConfig, blocks: BlockRange) {
    this.#network = network;
    this.#config = config;
    this.#blocks = blocks;
    this.#last = allBlocks(config).end;
    this.#edge = network.runType === "float16" ? "float16" : "float32";
    const table = ["S", config.headWidth / 2];
    const [cos, sin] = [
      network.floatInput("rope_cos", table),
      network.floatInput("rope_sin", table),
    ];
    this.#layers = new FluxLayers(network, config, cos, sin);
  }

  graph(): OnnxGraph {
    const { first, end } = this.#blocks;
    const { doubleBlocks } = this.#config;
    const temb = first === 0 ? this.#conditioning() : this.#boundaryInput("temb", []);
    const active = this.#network.silu("temb.active", temb);
    if (first <= doubleBlocks) {
      let [img, txt] = first === 0 ? this.#embeddings() : this.#boundaryStreams();
      for (let block = first; block < Math.min(end, doubleBlocks); block++) {
        [img, txt] = this.#network.block(`double.${block}`, () =>
          doubleBlock(this.#layers, block, img, txt, active),
        );
      }
      if (end <= doubleBlocks && end < this.#last) {
        this.#handOn({ img: img.value, txt: txt.value, temb });
      } else {
        this.#singleBlocks(this.#join(txt, img), this.#lengthOf(txt), temb, active);
      }
    } else {
      const x = this.#boundaryInput("x", ["S"]);
      const stream = { value: x, rows: this.#network.rowsShape("x.shape", x) };
      const length = end === this.#last ? this.#network.build.input(TEXT_LENGTH, "int64", [1]) : "";
      this.#singleBlocks(stream, length, temb, active);
    }
    return this.#network.build.graph;
  }

  #singleBlocks(joined: Stream, textLength: string, temb: string, active: string): void {
    const { first, end } = this.#blocks;
    const { doubleBlocks } = this.#config;
    let stream = joined;
    for (let block = Math.max(first, doubleBlocks); block < end; block++) {
      const index = block - doubleBlocks;
      stream = this.#network.block(`single.${index}`, () =>
        singleBlock(this.#layers, index, stream, active),
      );
    }
    if (end === this.#last) this.#sample(stream, textLength, active);
    else this.#handOn({ x: stream.value, temb });
  }

  /** Timestep, guidance and pooled text, each through a small network, summed: [B, width]. */
  #conditioning(): string {
    const network = this.#network;
    const { guidance, pooledWidth } = this.#config;
    const embedder = (at: string, input: string, inputWidth: number): string => {
      const value = network.floatInput(input, ["B", inputWidth]);
      return this.#embedder(at, value, inputWidth);
    };
    const timestep = embedder("timestep", "timestep_embedding", SINUSOID_WIDTH);
    const time = guidance
      ? network.add("time", timestep, embedder("guidance", "guidance_embedding", SINUSOID_WIDTH))
      : timestep;
    return network.add("temb.sum", time, embedder("text", "pooled_projections", pooledWidth));
  }

  #embedder(at: string, input: string, inputs: number): string {
    const network = this.#network;
    const { width } = this.#config;
    const weights = `time_text_embed.${at}_embedder`;
    const name = `temb.${at}`;
    const first = network.linear2d(`${name}.linear_1`, input, `${weights}.linear_1`, {
      inputs,
      outputs: width,
    });
    return network.linear2d(
      `${name}.linear_2`,
      network.silu(`${name}.act`, first),
      `${weights}.linear_2`,
      {
        inputs: width,
        outputs: width,
      },
    );
  }

  /** Latents and text, each projected to the width of the streams. */
  #embeddings(): [Stream, Stream] {
    const { inChannels, textWidth } = this.#config;
    return [
      this.#embedding("img", "hidden_states", "x_embedder", "I", inChannels),
      this.#embedding("txt", "encoder_hidden_states", "context_embedder", "T", textWidth),
    ];
  }

  #embedding(at: string, input: string, weights: string, tokens: string, inputs: number): Stream {
    const value = this.#network.floatInput(input, ["B", tokens, inputs]);
    const rows = this.#network.rowsShape(`${at}.shape`, value);
    const shape = { inputs, outputs: this.#config.width, rows };
    return { value: this.#network.linear(`${at}.embed`, value, weights, shape), rows };
  }

  #boundaryStreams(): [Stream, Stream] {
    const stream = (name: string, tokens: string): Stream => {
      const value = this.#boundaryInput(name, [tokens]);
      return { value, rows: this.#network.rowsShape(`${name}.shape`, value) };
    };
    return [stream("img", "I"), stream("txt", "T")];
  }

  /** What the stage before handed on; boundaries are numbered by the block that follows them. */
  #boundaryInput(name: string, tokens: readonly string[]): string {
    const { build, runType } = this.#network;
    const dims = ["B", ...tokens, this.#config.width];
    const given = build.input(`${name}.${this.#blocks.first}`, this.#edge, dims);
    return build.cast(`${given}.as.${runType}`, given, this.#edge, runType);
  }

  /** Text before image: [B, T, width] and [B, I, width] -> [B, S, width]. */
  #join(txt: Stream, img: Stream): Stream {
    const joined = [txt.value, img.value];
    const value = this.#network.build.node("x.joined", "Concat", joined, { axis: { int: 1 } });
    return { value, rows: this.#network.rowsShape("x.shape", value) };
  }

  #lengthOf(txt: Stream): string {
    const sized = { start: { int: 1 }, end: { int: 2 } };
    return this.#network.build.node("txt.length", "Shape", [txt.value], sized);
  }

  /** The image tokens' prediction: [B, S, width] -> [B, I, outChannels]. */
  #sample(x: Stream, textLength: string, active: string): void {
    const network = this.#network;
    const { build } = network;
    const { width, outChannels } = this.#config;
    const range = [textLength, build.ints(Number.MAX_SAFE_INTEGER), build.ints(1)];
    const img = build.node("final.img", "Slice", [x.value, ...range]);
    const at = "final.mod";
    const mod = this.#layers.modulation(at, active, "norm_out.linear", FINAL_NORM);
    const normed = this.#layers.modulatedNorm("final.norm", img, mod.scale, mod.shift);
    const shape = { inputs: width, outputs: outChannels };
    const rows = network.rowsShape("final.shape", img);
    const out = network.linear("final.proj", normed, "proj_out", { ...shape, rows });
    const tokens = textLength === TEXT_LENGTH ? `S-${TEXT_LENGTH}` : "I";
    network.floatOutput("sample", out, ["B", tokens, outChannels]);
  }

  /** All that the next stage needs, so that a stage talks only to its neighbours. */
  #handOn(values: { img: string; txt: string; temb: string } | { x: string; temb: string }): void {
    const { build, runType } = this.#network;
    const tokens: Record<string, string[]> = { img: ["I"], txt: ["T"], x: ["S"], temb: [] };
    for (const [name, value] of Object.entries(values)) {
      const output = `${name}.${this.#blocks.end}`;
      if (runType === this.#edge) build.node(output, "Identity", [value]);
      else build.cast(output, value, runType, this.#edge);
      build.output(output, this.#edge, ["B", ...(tokens[name] ?? []), this.#config.width]);
    }
  }
}
