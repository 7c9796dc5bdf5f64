/**
 * The number of threads is no part of the numerics class, so no network may show it: not with two,
 * and not with more than there are groups in a norm or heads in an attention, where a kernel that
 * divides its work otherwise would add in another order.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { prepareQuantised } from "@fluxline/gpu-node/adapters/quantisation/quantised-cache.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import type { NamedTensors } from "@fluxline/gpu-node/core/tensor.ts";
import { clipTextGraph } from "@fluxline/gpu-node/models/clip-text.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { vaeDecoderGraph, vaeEncoderGraph } from "@fluxline/gpu-node/models/vae.ts";
import type { OnnxGraph } from "@fluxline/gpu-node/onnx/graph.ts";
import { afterAll, expect, test } from "vitest";
import { manifest } from "../golden/golden-data.ts";
import { goldenCheckpoint, networkInputs } from "../golden/network-run.ts";

const THREADS = [2, 3, 5, 16, 40];

interface Place {
  readonly folder: string;
  readonly model: string;
}

type Builder = (part: Component, runType: "float32", int8?: Place) => OnnxGraph;

const BUILDERS: Readonly<Record<string, Builder>> = {
  transformer: (part, runType, int8) =>
    fluxTransformerGraph(part, runType, undefined, "fused", int8),
  text_encoder_2: (part, runType, int8) => t5EncoderGraph(part, runType, "fused", int8),
  text_encoder: (part, runType) => clipTextGraph(part, runType),
  "vae.decoder": (part, runType) => vaeDecoderGraph(part, runType),
  "vae.encoder": (part, runType) => vaeEncoderGraph(part, runType),
};
const QUANTISED = ["transformer", "text_encoder_2"];

const folder = mkdtempSync(join(tmpdir(), "fluxline-threads-"));
afterAll(() => rmSync(folder, { recursive: true }));

const cases = Object.keys(BUILDERS).flatMap((network) =>
  manifest.checkpoints.flatMap(({ name: checkpoint }) =>
    ["float32", ...(QUANTISED.includes(network) ? ["int8"] : [])].map((precision) => {
      return { network, checkpoint, precision };
    }),
  ),
);

test.for(cases)("$network of $checkpoint in $precision", async (drawn) => {
  const { network, checkpoint, precision } = drawn;
  const opened = await goldenCheckpoint(checkpoint);
  const part = component(opened, network.split(".")[0]!);
  const golden = manifest.networks.find((one) => {
    return one.network === network && one.checkpoint === checkpoint;
  });
  expect(golden).toBeDefined();
  const inputs = networkInputs(golden!, part);
  const int8 = precision === "int8" ? { folder, model: opened.digest } : undefined;
  const graph = toGraph(BUILDERS[network]!(part, "float32", int8));
  await prepareQuantised(graph.quantised, { threads: 1, log: () => undefined });
  const run = async (threads: number): Promise<NamedTensors> => {
    const session = await openSession(graph, { provider: "cpu", threads });
    return session.run(inputs).finally(() => session.close());
  };
  const expected = await run(1);
  for (const threads of THREADS) {
    expect(await run(threads), `${threads} threads`).toEqual(expected);
  }
});
