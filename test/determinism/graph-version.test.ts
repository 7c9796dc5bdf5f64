/**
 * The graph recipe's version is part of the numerics class, so a graph that is built otherwise must
 * not go out under an old number: then checkpoints of the old one would be gone on from.
 */
import { createHash } from "node:crypto";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import { GRAPH_VERSION } from "@fluxline/gpu-node/core/numerics-class.ts";
import { clipTextGraph } from "@fluxline/gpu-node/models/clip-text.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import type { Recipe } from "@fluxline/gpu-node/models/network.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { vaeDecoderGraph } from "@fluxline/gpu-node/models/vae.ts";
import type { OnnxGraph, RunType } from "@fluxline/gpu-node/onnx/graph.ts";
import { expect, test } from "vitest";
import { manifest } from "../golden/golden-data.ts";
import { goldenCheckpoint } from "../golden/network-run.ts";

/** What the graphs were at this version; `int8`: with quantised blocks. */
const KNOWN = {
  version: 2,
  digest: "3e599b8be3d5fb7c",
  int8: "694add65175c8494",
};

type Builder = (part: Component, runType: RunType, recipe: Recipe, int8?: Place) => OnnxGraph;
/** Where the graphs of int8 point, and no file needs to be. */
interface Place {
  readonly folder: string;
  readonly model: string;
}
const PLACE: Place = { folder: "/quantised", model: "any" };

const BUILDERS: Readonly<Record<string, Builder>> = {
  transformer: (part, runType, recipe, int8) =>
    fluxTransformerGraph(part, runType, undefined, recipe, int8),
  text_encoder: clipTextGraph,
  text_encoder_2: t5EncoderGraph,
  vae: vaeDecoderGraph,
};
const RUN_TYPES: readonly RunType[] = ["float32", "float16", "bfloat16"];

/** Nodes, constants and the shapes of weights; not where a weight lies. */
function described({ nodes, initializers, inputs, outputs }: OnnxGraph): string {
  const values = initializers.map(({ name, type, dims, data }) => {
    return [name, type, dims, data instanceof Uint8Array ? [...data] : "weight"];
  });
  return JSON.stringify({ nodes, values, inputs, outputs });
}

test("a graph that is built otherwise has another version", async () => {
  const [hash, int8] = [createHash("sha256"), createHash("sha256")];
  for (const { name } of manifest.checkpoints) {
    const checkpoint = await goldenCheckpoint(name);
    for (const [part, build] of Object.entries(BUILDERS)) {
      for (const runType of RUN_TYPES) {
        for (const recipe of ["fused", "portable"] as const) {
          const graph = build(component(checkpoint, part), runType, recipe);
          hash.update(described(graph));
          const quantised = build(component(checkpoint, part), runType, recipe, PLACE);
          if (runType !== "bfloat16") int8.update(described(quantised));
        }
      }
    }
  }
  const [digest, digest8] = [hash, int8].map((one) => one.digest("hex").slice(0, 16));
  const found = { version: GRAPH_VERSION, digest, int8: digest8 };
  const wayOut =
    "the graphs have changed: unless every bit of their outputs is the same, raise GRAPH_VERSION in " +
    "services/gpu-node/src/core/numerics-class.ts; then enter here what was found";
  expect(found, wayOut).toEqual(KNOWN);
});
