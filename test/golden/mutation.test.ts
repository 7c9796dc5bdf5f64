/**
 * The goldens catch the mistakes that implementers of FLUX make: each is made here in the runtime's
 * own graph (plain data), or in what the host feeds it, and must lie outside the tolerance. The
 * table of README.md gives the same mistakes made in diffusers.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { NamedTensors, Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { float32Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { guidanceEmbedding, ropeTables } from "@fluxline/gpu-node/models/flux-positions.ts";
import { encodeFloats } from "@fluxline/gpu-node/onnx/float-bits.ts";
import { node, type OnnxGraph, type OnnxNode } from "@fluxline/gpu-node/onnx/graph.ts";
import { describe, expect, test } from "vitest";
import { LEAST_MISTAKE, NETWORK_TOLERANCE, relativeError } from "./comparison.ts";
import { floats, type NetworkCase } from "./golden-data.ts";
import { caseOf, runNetwork, stacked, type Mutation } from "./network-run.ts";

type Mistakes = Readonly<Record<string, Mutation>>;

/** Changes every node that matches; at least one must. */
function each(matches: (candidate: OnnxNode) => boolean, change: (found: OnnxNode) => void) {
  return {
    graph: (graph: OnnxGraph): void => {
      const found = graph.nodes.filter(matches);
      assert(found.length > 0, `no node of ${graph.name} matches`);
      for (const one of found) change(one);
    },
  };
}

const named = (pattern: RegExp) => (candidate: OnnxNode) => pattern.test(candidate.name);
const operator = (name: string) => (candidate: OnnxNode) => candidate.operator === name;

function swapOutputs(first: number, second: number): (found: OnnxNode) => void {
  return ({ outputs }) => {
    [outputs[first], outputs[second]] = [outputs[second]!, outputs[first]!];
  };
}

function swapInputs(first: number, second: number): (found: OnnxNode) => void {
  return ({ inputs }) => {
    [inputs[first], inputs[second]] = [inputs[second]!, inputs[first]!];
  };
}

/** The node hands on its first input. */
function bypass(found: OnnxNode): void {
  found.operator = "Identity";
  found.domain = "";
  found.inputs = [found.inputs[0]!];
  found.attributes = {};
}

const attribute = (name: string, value: OnnxNode["attributes"][string]) => (found: OnnxNode) => {
  assert(name in found.attributes, `${found.name} has no attribute ${name}`);
  found.attributes[name] = value;
};

const wrongEpsilon = attribute("epsilon", { float: 1e-5 });
const exactGelu = each(operator("Gelu"), attribute("approximate", { string: "none" }));

function input(name: string, change: (given: Tensor) => Tensor): Mutation {
  return {
    inputs: (inputs: NamedTensors): NamedTensors => ({ ...inputs, [name]: change(inputs[name]!) }),
  };
}

function mapped(change: (value: number, index: number) => number): (given: Tensor) => Tensor {
  return ({ data, dims }) => float32Tensor((data as Float32Array).map(change), dims);
}

/** [sines, cosines] where [cosines, sines] are right. */
function swapHalves(given: Tensor): Tensor {
  const data = given.data as Float32Array;
  const width = given.dims[1]!;
  const swapped = data.map((_, i) => {
    const column = i % width;
    return data[i - column + ((column + width / 2) % width)]!;
  });
  return float32Tensor(swapped, given.dims);
}

/** Positions as (picture, column, row). */
function swapAxes(golden: NetworkCase): Mutation {
  const text = golden.settings.textTokens!;
  const ids = floats(golden.file, golden.inputs["img_ids"]!);
  const image = Array.from({ length: ids.length / 3 }, (_, token) => [
    ids[3 * token]!,
    ids[3 * token + 2]!,
    ids[3 * token + 1]!,
  ]);
  const positions = [...Array.from({ length: text }, () => [0, 0, 0]), ...image];
  const { cos, sin } = ropeTables([8, 12, 12], positions);
  return { inputs: (inputs) => ({ ...inputs, rope_cos: cos, rope_sin: sin }) };
}

const DEV = caseOf("dev-like", "transformer", "two rows, odd sizes");

const TRANSFORMER: Mistakes = {
  "sine before cosine": input("timestep_embedding", swapHalves),
  "guidance dropped": input("guidance_embedding", ({ dims }) =>
    stacked(Array.from({ length: dims[0]! }, () => guidanceEmbedding(0, "float32"))),
  ),
  "guidance of another row": input("guidance_embedding", ({ data, dims }) => {
    const rows = data as Float32Array;
    return float32Tensor(
      rows.map((_, i) => rows[(i + dims[1]!) % rows.length]!),
      dims,
    );
  }),
  "exact gelu": exactGelu,
  "scale and shift swapped before attention, double": each(
    named(/^double\.\d+\.(img|txt)\.mod$/),
    swapOutputs(0, 1),
  ),
  "scale and shift swapped before the feed-forward layer": each(
    named(/^double\.\d+\.(img|txt)\.mod$/),
    swapOutputs(3, 4),
  ),
  "attention's gate in the feed-forward layer": each(
    named(/^double\.\d+\.(img|txt)\.mod$/),
    swapOutputs(2, 5),
  ),
  "scale and shift swapped, single": each(named(/^single\.\d+\.mod$/), swapOutputs(0, 1)),
  "scale and shift swapped, last norm": each(named(/^final\.mod$/), swapOutputs(0, 1)),
  "no activation before the modulations": each(named(/^temb\.active$/), bypass),
  "no positions": {
    inputs: (inputs) => ({
      ...inputs,
      rope_cos: mapped(() => 1)(inputs["rope_cos"]!),
      rope_sin: mapped(() => 0)(inputs["rope_sin"]!),
    }),
  },
  "rotation the other way for queries only": each(named(/\.q\.rotated$/), bypass),
  "rows and columns swapped": swapAxes(DEV),
  "pairs of positions half a head apart": each(
    operator("RotaryEmbedding"),
    attribute("interleaved", { int: 0 }),
  ),
  "q and k not normalised": each(operator("SimplifiedLayerNormalization"), bypass),
  "q, k: epsilon 1e-5": each(operator("SimplifiedLayerNormalization"), wrongEpsilon),
  "queries and keys exchanged": each(operator("MultiHeadAttention"), swapInputs(0, 1)),
  "single: mlp before attention": each(named(/^single\.\d+\.both$/), swapInputs(0, 1)),
  "text and image exchanged after attention": each(
    named(/^double\.\d+\.(q|k|v)$/),
    swapInputs(0, 1),
  ),
};

const FILL = caseOf("fill-like", "transformer", "two rows, odd sizes");
const FILL_TRANSFORMER: Mistakes = {
  "layer norm: epsilon 1e-5": each(operator("LayerNormalization"), wrongEpsilon),
};

const CLIP_OLD = caseOf("dev-like", "text_encoder", "prompts");
const CLIP: Mistakes = {
  "no causal mask": each(operator("MultiHeadAttention"), attribute("unidirectional", { int: 0 })),
  "quick_gelu with the factor of silu": each(
    operator("QuickGelu"),
    attribute("alpha", { float: 1 }),
  ),
  "pooled at the last of the highest ids": each(named(/^pool\.place$/), (found) => {
    found.attributes["select_last_index"] = { int: 1 };
  }),
  "no final norm": each(named(/^final\.norm$/), bypass),
};
const CLIP_NEW = caseOf("schnell-like", "text_encoder", "prompts");
const CLIP_FIRST_END: Mistakes = {
  "pooled at the highest id": each(named(/^pool\.score$/), (found) => {
    found.inputs = ["input_ids"];
  }),
  "pooled at the last end": each(named(/^pool\.place$/), (found) => {
    found.attributes["select_last_index"] = { int: 1 };
  }),
  "gelu by tanh": each(operator("Gelu"), attribute("approximate", { string: "tanh" })),
};

const T5_CASE = caseOf("dev-like", "text_encoder_2", "length 77");
const T5: Mistakes = {
  "logits divided by sqrt(d_kv)": each(
    operator("MultiHeadAttention"),
    attribute("scale", { float: 0.25 }),
  ),
  "no position bias": each(operator("MultiHeadAttention"), ({ inputs }) => {
    inputs.length = 3;
  }),
  "position bias in the first block only": each(
    named(/^block\.[1-9]\d*\.attn\.mix$/),
    ({ inputs }) => {
      inputs.length = 3;
    },
  ),
  "distance query - key": each(named(/^bias\.distance$/), swapInputs(0, 1)),
  "exact gelu": exactGelu,
  "gate and value exchanged": each(named(/\.mlp\.act$/), (found) => {
    found.inputs = [found.inputs[0]!.replace("wi_0", "wi_1")];
  }),
  "no final norm": each(named(/^final\.norm$/), bypass),
};

const DECODER_CASE = caseOf("dev-like", "vae.decoder", "wide");
const DECODER: Mistakes = {
  "scaling factor left out": input(
    "latent_sample",
    mapped((value) => value * 0.3611),
  ),
  "shift factor left out": input(
    "latent_sample",
    mapped((value) => value - 0.1159),
  ),
  "shifted before scaled": input(
    "latent_sample",
    mapped((value) => value - 0.1159 + 0.1159 / 0.3611),
  ),
  "smooth upsampling": each(operator("Resize"), (found) => {
    found.attributes = {
      mode: { string: "linear" },
      coordinate_transformation_mode: { string: "half_pixel" },
    };
  }),
  "no attention in the middle": each(named(/^mid\.attn$/), bypass),
};
const ENCODER_CASE = caseOf("dev-like", "vae.encoder", "wide");
const ENCODER: Mistakes = {
  "padded on the other side": each(
    named(/^down\.\d+\.downsample$/),
    attribute("pads", { ints: [1, 1, 0, 0] }),
  ),
  "padded evenly": each(
    named(/^down\.\d+\.downsample$/),
    attribute("pads", { ints: [1, 1, 1, 1] }),
  ),
  "no attention in the middle": each(named(/^mid\.attn$/), bypass),
};
const ODD_DECODER = caseOf("odd-like", "vae.decoder", "wide");
const ODD_ENCODER = caseOf("odd-like", "vae.encoder", "wide");
const GROUP_NORM: Mistakes = {
  "group norm: epsilon 1e-5": {
    graph: ({ name, initializers }) => {
      const epsilon = initializers.find((one) => one.name === "float32.0.000001");
      assert(epsilon !== undefined, `${name} has no epsilon`);
      epsilon.data = encodeFloats("float32", [1e-5]);
    },
  },
};

const ALL: readonly (readonly [NetworkCase, Mistakes])[] = [
  [DEV, TRANSFORMER],
  [FILL, FILL_TRANSFORMER],
  [CLIP_OLD, CLIP],
  [CLIP_NEW, CLIP_FIRST_END],
  [T5_CASE, T5],
  [DECODER_CASE, DECODER],
  [ENCODER_CASE, ENCODER],
  [ODD_DECODER, GROUP_NORM],
  [ODD_ENCODER, GROUP_NORM],
];

/** Of all outputs of the golden, the one that suffers most. */
async function errorOf(golden: NetworkCase, mutation: Mutation): Promise<number> {
  const results = await runNetwork(golden, mutation);
  const compared = Object.entries(golden.outputs).filter(([name]) => name in results);
  expect(compared.length).toBeGreaterThan(0);
  const errors = compared.map(([name, { tensor }]) =>
    relativeError(results[name]!.data as Float32Array, floats(golden.file, tensor)),
  );
  return Math.max(...errors);
}

for (const [golden, mistakes] of ALL) {
  describe(`${golden.network} of ${golden.checkpoint}`, () => {
    test("is right without a mistake", async () => {
      expect(await errorOf(golden, {})).toBeLessThanOrEqual(NETWORK_TOLERANCE);
    });

    test.for(Object.entries(mistakes))("is caught: %s", async ([, mutation]) => {
      const error = await errorOf(golden, mutation);
      expect(error).toBeGreaterThan(LEAST_MISTAKE * NETWORK_TOLERANCE);
    });
  });
}

test("a mistake that changes nothing would be noticed as one", async () => {
  const harmless = (graph: OnnxGraph): void => {
    const sum = node(graph, "temb.sum");
    sum.inputs.reverse();
  };
  expect(await errorOf(DEV, { graph: harmless })).toBeLessThanOrEqual(NETWORK_TOLERANCE);
});
