/** What is wrong with a config or a weight is said with file, key or tensor, and value. */
import { AppError } from "@fluxline/kernel/error.ts";
import { describe, expect, test } from "vitest";
import type { Component } from "../core/checkpoint.ts";
import { JsonConfig } from "../core/json-config.ts";
import type { StoredTensor, StoredType } from "../core/safetensors.ts";
import type { OnnxGraph } from "../onnx/graph.ts";
import { clipTextGraph, readClipTextConfig } from "./clip-text.ts";
import { fluxTransformerGraph, readFluxTransformerConfig } from "./flux-transformer.ts";
import { readT5EncoderConfig, t5EncoderGraph } from "./t5-encoder.ts";
import { readVaeConfig, vaeDecoderGraph, vaeEncoderGraph } from "./vae.ts";

const DIRECTORY = "/models/x";

function part(
  name: string,
  config: Record<string, unknown>,
  weights: Component["weights"] = new Map(),
) {
  const file = `${DIRECTORY}/${name}/config.json`;
  return { name, config: new JsonConfig(file, config), weights };
}

const TRANSFORMER = {
  _class_name: "FluxTransformer2DModel",
  num_layers: 2,
  num_single_layers: 2,
  num_attention_heads: 2,
  attention_head_dim: 16,
  axes_dims_rope: [4, 6, 6],
  joint_attention_dim: 8,
  pooled_projection_dim: 8,
};
const VAE = {
  _class_name: "AutoencoderKL",
  block_out_channels: [8, 16],
  down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D"],
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D"],
  norm_num_groups: 4,
  latent_channels: 4,
};
const CLIP = {
  hidden_size: 8,
  num_attention_heads: 2,
  num_hidden_layers: 1,
  intermediate_size: 16,
  vocab_size: 20,
};
const T5 = { d_model: 8, num_heads: 2, d_kv: 4, num_layers: 1, d_ff: 16, vocab_size: 20 };

describe("a config with", () => {
  type Reader = (part: Component) => unknown;
  const cases: [string, Reader, Record<string, unknown>, string, string][] = [
    [
      "another class",
      readFluxTransformerConfig,
      { ...TRANSFORMER, _class_name: "SD3Transformer2DModel" },
      "_class_name",
      "SD3Transformer2DModel",
    ],
    [
      "axes that do not fill a head",
      readFluxTransformerConfig,
      { ...TRANSFORMER, axes_dims_rope: [4, 4, 6] },
      "axes_dims_rope",
      "[4,4,6]",
    ],
    [
      "odd axes",
      readFluxTransformerConfig,
      { ...TRANSFORMER, axes_dims_rope: [3, 7, 6] },
      "axes_dims_rope",
      "[3,7,6]",
    ],
    [
      "default axes that do not fill its head",
      readFluxTransformerConfig,
      { ...TRANSFORMER, axes_dims_rope: undefined },
      "axes_dims_rope",
      "[16,56,56]",
    ],
    ["patches", readFluxTransformerConfig, { ...TRANSFORMER, patch_size: 2 }, "patch_size", "2"],
    [
      "no heads",
      readFluxTransformerConfig,
      { ...TRANSFORMER, num_attention_heads: 0 },
      "num_attention_heads",
      "0",
    ],
    [
      "no blocks",
      readFluxTransformerConfig,
      { ...TRANSFORMER, num_layers: 0, num_single_layers: 0 },
      "num_layers",
      "0",
    ],
    [
      "guidance as text",
      readFluxTransformerConfig,
      { ...TRANSFORMER, guidance_embeds: "yes" },
      "guidance_embeds",
      "yes",
    ],
    [
      "heads of unequal width",
      readClipTextConfig,
      { ...CLIP, hidden_size: 9 },
      "num_attention_heads",
      "9",
    ],
    [
      "an unknown activation",
      readClipTextConfig,
      { ...CLIP, hidden_act: "tanh" },
      "hidden_act",
      "tanh",
    ],
    [
      "another text model",
      readClipTextConfig,
      { ...CLIP, model_type: "bert" },
      "model_type",
      "bert",
    ],
    [
      "an unknown feed-forward",
      readT5EncoderConfig,
      { ...T5, feed_forward_proj: "tanh" },
      "feed_forward_proj",
      "tanh",
    ],
    [
      "odd buckets",
      readT5EncoderConfig,
      { ...T5, relative_attention_num_buckets: 7 },
      "relative_attention_num_buckets",
      "7",
    ],
    [
      "buckets beyond the distance",
      readT5EncoderConfig,
      { ...T5, relative_attention_max_distance: 8 },
      "relative_attention_max_distance",
      "8",
    ],
    [
      "an unknown kind of level",
      readVaeConfig,
      { ...VAE, up_block_types: ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"] },
      "up_block_types",
      "AttnUpDecoderBlock2D",
    ],
    [
      "too few levels",
      readVaeConfig,
      { ...VAE, down_block_types: ["DownEncoderBlock2D"] },
      "down_block_types",
      "1",
    ],
    [
      "groups that do not divide",
      readVaeConfig,
      { ...VAE, norm_num_groups: 3 },
      "norm_num_groups",
      "3",
    ],
    [
      "a scaling factor of zero",
      readVaeConfig,
      { ...VAE, scaling_factor: 0 },
      "scaling_factor",
      "0",
    ],
  ];

  test.for(cases)("%s names file, key and value", ([, read, config, key, value]) => {
    const error = failure(() => read(part("any", config)));
    expect(error.code).toBe("failed_precondition");
    expect(error.message).toContain(`${DIRECTORY}/any/config.json: ${key}: `);
    expect(error.message).toContain(value);
  });

  test("keys left out has the library's defaults", () => {
    const flux = readFluxTransformerConfig(part("transformer", {}));
    expect(flux).toMatchObject({
      doubleBlocks: 19,
      singleBlocks: 38,
      width: 3072,
      guidance: false,
    });
    expect(flux).toMatchObject({ inChannels: 64, outChannels: 64, axesDims: [16, 56, 56] });
    const fill = readFluxTransformerConfig(
      part("transformer", { in_channels: 384, out_channels: 64 }),
    );
    expect(fill).toMatchObject({ inChannels: 384, outChannels: 64 });
    expect(readVaeConfig(part("vae", VAE))).toMatchObject({ quantConv: true, scale: 2 });
  });
});

describe("weights", () => {
  const graphs: [string, Component, (part: Component) => OnnxGraph][] = [
    ["transformer", part("transformer", TRANSFORMER), (p) => fluxTransformerGraph(p, "float32")],
    ["text_encoder", part("text_encoder", CLIP), (p) => clipTextGraph(p, "float32")],
    ["text_encoder_2", part("text_encoder_2", T5), (p) => t5EncoderGraph(p, "float32")],
    ["vae decoder", part("vae", VAE), (p) => vaeDecoderGraph(p, "float32")],
    ["vae encoder", part("vae", VAE), (p) => vaeEncoderGraph(p, "float32")],
  ];

  test.for(graphs)("of %s: each that is missing is named", ([, empty, build]) => {
    const weights = completed(empty, build);
    expect(weights.size).toBeGreaterThan(10);
    for (const name of weights.keys()) {
      const without = new Map([...weights].filter(([other]) => other !== name));
      const error = failure(() => build({ ...empty, weights: without }));
      expect(error.message).toContain(`${DIRECTORY}/${empty.name}/: ${name}: `);
      expect(error.message).toContain("no such tensor");
    }
  });

  test.for(graphs)("of %s: each of a wrong shape is named", ([, empty, build]) => {
    const weights = completed(empty, build);
    for (const [name, tensor] of weights) {
      const wrong = { ...tensor, shape: [...tensor.shape.slice(0, -1), 999] };
      const error = failure(() => build({ ...empty, weights: new Map(weights).set(name, wrong) }));
      expect(error.message).toContain(`${tensor.file}: ${name}: has shape [`);
      expect(error.message).toContain(`asks for [${tensor.shape.join(", ")}]`);
    }
  });

  test.for(graphs)("of %s: integers are refused by name", ([, empty, build]) => {
    const weights = completed(empty, build);
    const [name, tensor] = [...weights].at(-1)!;
    const integers = { ...tensor, dtype: "I8" as StoredType };
    const error = failure(() => build({ ...empty, weights: new Map(weights).set(name, integers) }));
    expect(error.message).toContain(`${name}: is stored as I8; supported: F32, F16, BF16`);
  });
});

/** The weights that a network asks for, found by answering its complaints one after another. */
function completed(
  empty: Component,
  build: (part: Component) => OnnxGraph,
): Map<string, StoredTensor> {
  const weights = new Map<string, StoredTensor>();
  for (let turn = 0; turn < 1000; turn++) {
    try {
      build({ ...empty, weights });
      return weights;
    } catch (thrown) {
      if (!(thrown instanceof AppError)) throw thrown;
      const name = /: ([\w.]+): (the weights|has shape)/.exec(thrown.message)?.[1] ?? "";
      const asked = /asks for \[([\d, ]*)\]/.exec(thrown.message)?.[1];
      const shape = asked?.split(", ").map(Number) ?? [0];
      const file = `${DIRECTORY}/${empty.name}/model.safetensors`;
      weights.set(name, { name, dtype: "F32", shape, file, offset: 0, length: 0 });
    }
  }
  throw new Error("the network never had enough");
}

function failure(run: () => unknown): AppError {
  try {
    run();
  } catch (thrown) {
    if (thrown instanceof AppError) return thrown;
    throw thrown;
  }
  throw new Error("nothing was wrong");
}
