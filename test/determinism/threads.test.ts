/**
 * The number of threads is no part of the numerics class, so no network may show it: not with two,
 * and not with more than there are groups in a norm or heads in an attention, where a kernel that
 * divides its work otherwise would add in another order.
 */
import { openSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import type { NamedTensors } from "@fluxline/gpu-node/core/tensor.ts";
import { clipTextGraph } from "@fluxline/gpu-node/models/clip-text.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { vaeDecoderGraph, vaeEncoderGraph } from "@fluxline/gpu-node/models/vae.ts";
import type { OnnxGraph } from "@fluxline/gpu-node/onnx/graph.ts";
import { expect, test } from "vitest";
import { manifest } from "../golden/golden-data.ts";
import { goldenCheckpoint, networkInputs } from "../golden/network-run.ts";

const THREADS = [2, 3, 5, 16, 40];

const BUILDERS: Readonly<Record<string, (part: Component, runType: "float32") => OnnxGraph>> = {
  transformer: fluxTransformerGraph,
  text_encoder: clipTextGraph,
  text_encoder_2: t5EncoderGraph,
  "vae.decoder": vaeDecoderGraph,
  "vae.encoder": vaeEncoderGraph,
};

const cases = Object.keys(BUILDERS).flatMap((network) =>
  manifest.checkpoints.map(({ name }) => ({ network, checkpoint: name })),
);

test.for(cases)("$network of $checkpoint", async ({ network, checkpoint }) => {
  const part = component(await goldenCheckpoint(checkpoint), network.split(".")[0]!);
  const golden = manifest.networks.find((one) => {
    return one.network === network && one.checkpoint === checkpoint;
  });
  expect(golden).toBeDefined();
  const inputs = networkInputs(golden!, part);
  const graph = toGraph(BUILDERS[network]!(part, "float32"));
  const run = async (threads: number): Promise<NamedTensors> => {
    const session = await openSession(graph, { provider: "cpu", threads });
    return session.run(inputs).finally(() => session.close());
  };
  const expected = await run(1);
  for (const threads of THREADS) {
    expect(await run(threads), `${threads} threads`).toEqual(expected);
  }
});
