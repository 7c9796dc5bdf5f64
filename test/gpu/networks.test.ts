/**
 * What a GPU's kernels compute: near the goldens, and what a row's mates in a batch and the cuts of
 * a pipeline do to its bits. Equal bits are not promised here but measured and said; what is held
 * is that nothing is further off than the type's rounding. docs/determinism.md says what follows.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSession, type OnnxSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import type { NamedTensors, Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { clipTextGraph } from "@fluxline/gpu-node/models/clip-text.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { vaeDecoderGraph } from "@fluxline/gpu-node/models/vae.ts";
import { float16Value } from "@fluxline/gpu-node/onnx/float-bits.ts";
import type { OnnxGraph, RunType } from "@fluxline/gpu-node/onnx/graph.ts";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { batchOf, withTextLength } from "../determinism/row-batch.ts";
import { relativeError, rmsError } from "../golden/comparison.ts";
import { manifest, tensor } from "../golden/golden-data.ts";
import { goldenCheckpoint, networkInputs } from "../golden/network-run.ts";
import { QUANTISED_NETWORKS, quantisedGraph } from "../golden/quantised-run.ts";
import { describeOnGpu, gpuProvider } from "./provider.ts";

/** float32 products may be rounded to TF32, which has float16's ten bits; so has the type itself. */
const TOLERANCE = 0.01;
/** As in test/golden/quantised.test.ts. */
const INT8_TOLERANCE = 0.05;
const BATCHES = [1, 2, 3, 4, 5, 6, 7, 8];
const RUN_TYPES: readonly RunType[] = ["float32", "float16"];

const BUILDERS: Readonly<Record<string, (part: Component, runType: RunType) => OnnxGraph>> = {
  transformer: fluxTransformerGraph,
  text_encoder: clipTextGraph,
  text_encoder_2: t5EncoderGraph,
  "vae.decoder": vaeDecoderGraph,
};

const provider = await gpuProvider(process.env["FLUXLINE_GPU_PROVIDER"]);

const folder = mkdtempSync(join(tmpdir(), "fluxline-gpu-"));
afterAll(() => rmSync(folder, { recursive: true }));

const opened: OnnxSession[] = [];
afterEach(async () => {
  for (const session of opened.splice(0)) await session.close();
});

async function open(graph: OnnxGraph): Promise<OnnxSession> {
  const session = await openSession(toGraph(graph), { provider: provider.name, threads: 1 });
  opened.push(session);
  return session;
}

function golden(network: string, checkpoint: string) {
  const found = manifest.networks.find((one) => {
    return one.network === network && one.checkpoint === checkpoint;
  });
  if (found === undefined) throw new Error(`no golden ${network} of ${checkpoint}`);
  return found;
}

function values({ type, data }: Tensor): Float32Array {
  return type === "float16"
    ? Float32Array.from(data as Uint16Array, float16Value)
    : (data as Float32Array);
}

describeOnGpu(provider, () => {
  describe("against the goldens of diffusers", () => {
    const cases = Object.keys(BUILDERS).flatMap((network) =>
      manifest.checkpoints.flatMap(({ name: checkpoint }) =>
        RUN_TYPES.map((runType) => ({ network, checkpoint, runType })),
      ),
    );
    test.for(cases)(
      "$network of $checkpoint, $runType",
      async ({ network, checkpoint, runType }) => {
        const part = component(await goldenCheckpoint(checkpoint), network.split(".")[0]!);
        const inputs = networkInputs(golden(network, checkpoint), part);
        const build = BUILDERS[network]!;
        const cpu = await openSession(toGraph(build(part, "float32")), {
          provider: "cpu",
          threads: 1,
        });
        opened.push(cpu);
        const expected = await cpu.run(inputs); // itself held to the goldens, at 1e-5
        const actual = await (await open(build(part, runType))).run(inputs);
        for (const [name, tensor] of Object.entries(expected)) {
          expect(relativeError(values(actual[name]!), values(tensor)), name).toBeLessThan(
            TOLERANCE,
          );
        }
      },
    );
  });

  // TensorRT has no operator for such weights, and the service refuses it.
  describe.skipIf(provider.name === "tensorrt")("with weights in int8", () => {
    const cases = QUANTISED_NETWORKS.flatMap((network) =>
      manifest.checkpoints.map(({ name: checkpoint }) => ({ network, checkpoint })),
    );
    test.for(cases)("$network of $checkpoint", async ({ network, checkpoint }) => {
      const way = { runType: "float16", recipe: "fused" } as const;
      const { part, graph } = await quantisedGraph(checkpoint, network, folder, way);
      const known = golden(network, checkpoint);
      const actual = await (await open(graph)).run(networkInputs(known, part));
      for (const [name, value] of Object.entries(actual)) {
        const { data } = tensor(known.file, known.outputs[name]!.tensor);
        expect(rmsError(values(value), data), name).toBeLessThan(INT8_TOLERANCE);
      }
    });
  });

  describe("the denoiser of flux-tiny's size", () => {
    const setUp = async (runType: RunType) => {
      const part = component(await goldenCheckpoint("dev-like"), "transformer");
      const given = networkInputs(golden("transformer", "dev-like"), part);
      return { part, given, whole: await open(fluxTransformerGraph(part, runType)) };
    };
    const predict = async (session: OnnxSession, inputs: NamedTensors): Promise<Float32Array> =>
      values((await session.run(inputs))["sample"]!);

    test.for(RUN_TYPES)("in %s, a row alone and in batches of 1 to 8", async (runType) => {
      const { given, whole } = await setUp(runType);
      const alone = await predict(whole, batchOf(given, 1, 0));
      for (const rows of BATCHES) {
        let equal = 0;
        let furthest = 0;
        for (let place = 0; place < rows; place++) {
          const all = await predict(whole, batchOf(given, rows, place));
          const own = all.subarray(place * alone.length, (place + 1) * alone.length);
          const error = relativeError(own, alone);
          furthest = Math.max(furthest, error);
          if (error === 0) equal += 1;
          expect(error, `row ${place} of ${rows}`).toBeLessThan(TOLERANCE);
        }
        const off = furthest === 0 ? "" : `, furthest off ${furthest.toExponential(1)}`;
        console.log(`${provider.name} ${runType}, ${rows} rows: ${equal} places equal${off}`);
      }
    });

    test.for(RUN_TYPES)("in %s, whole and cut in two, run after run", async (runType) => {
      const { part, given, whole } = await setUp(runType);
      const inputs = batchOf(given, 2, 0);
      const expected = await predict(whole, inputs);
      expect(await predict(whole, inputs), "the same run again").toEqual(expected);
      const blocks = 5;
      for (let cut = 1; cut < blocks; cut++) {
        const first = await open(fluxTransformerGraph(part, runType, { first: 0, end: cut }));
        const rest = await open(fluxTransformerGraph(part, runType, { first: cut, end: blocks }));
        const handed = { ...inputs, ...(await first.run(inputs)) };
        const error = relativeError(await predict(rest, withTextLength(handed)), expected);
        expect(error, `cut at ${cut}`).toBeLessThan(TOLERANCE);
        const equal = error === 0 ? "equal" : `off by ${error.toExponential(1)}`;
        console.log(`${provider.name} ${runType}, cut at ${cut}: ${equal}`);
      }
    });
  });
});
