/**
 * The 16-bit graphs, and the recipe for providers without the fused operators. The CPU provider has no 16-bit kernels: it computes float16 graphs in float32
 * between roundings, which proves weights, casts and edges, not a GPU's numerics; and it loads no
 * bfloat16 graph at all, but only after it has checked every type in it.
 */
import { openSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import type { NamedTensors, Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { clipTextGraph } from "@fluxline/gpu-node/models/clip-text.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { vaeDecoderGraph, vaeEncoderGraph } from "@fluxline/gpu-node/models/vae.ts";
import { float16Value } from "@fluxline/gpu-node/onnx/float-bits.ts";
import type { Recipe } from "@fluxline/gpu-node/models/network.ts";
import type { OnnxGraph, RunType } from "@fluxline/gpu-node/onnx/graph.ts";
import { AppError } from "@fluxline/kernel/error.ts";
import { describe, expect, test } from "vitest";
import { NETWORK_TOLERANCE, relativeError } from "./comparison.ts";
import { manifest } from "./golden-data.ts";
import { CPU, goldenCheckpoint, networkInputs } from "./network-run.ts";

/** Ten mantissa bits through a few layers; measured 0.0015 at most. */
const FLOAT16_TOLERANCE = 0.005;

type Builder = (part: Component, runType: RunType, recipe?: Recipe) => OnnxGraph;

const BUILDERS: Record<string, Builder> = {
  transformer: (part, runType, recipe) => fluxTransformerGraph(part, runType, undefined, recipe),
  text_encoder: clipTextGraph,
  text_encoder_2: t5EncoderGraph,
  "vae.decoder": vaeDecoderGraph,
  "vae.encoder": vaeEncoderGraph,
};

const cases = Object.keys(BUILDERS).flatMap((network) =>
  manifest.checkpoints.map(({ name }) => ({ network, checkpoint: name })),
);

async function partOf(checkpoint: string, network: string): Promise<Component> {
  return component(await goldenCheckpoint(checkpoint), network.split(".")[0]!);
}

async function run(graph: OnnxGraph, inputs: NamedTensors): Promise<NamedTensors> {
  const session = await openSession(toGraph(graph), CPU);
  try {
    return await session.run(inputs);
  } finally {
    await session.close();
  }
}

describe("float16 is near float32", () => {
  test.for(cases)("$network of $checkpoint", async ({ network, checkpoint }) => {
    const part = await partOf(checkpoint, network);
    const golden = manifest.networks.find(
      (one) => one.network === network && one.checkpoint === checkpoint,
    )!;
    const inputs = networkInputs(golden, part);
    const exact = await run(BUILDERS[network]!(part, "float32"), inputs);
    const half = await run(BUILDERS[network]!(part, "float16"), inputs);
    for (const [name, { type, data, dims }] of Object.entries(exact)) {
      expect(half[name]).toMatchObject({ type, dims });
      const error = relativeError(half[name]!.data as Float32Array, data as Float32Array);
      expect(error, name).toBeLessThan(FLOAT16_TOLERANCE);
    }
  });

  test("and so is a chain of stages, which hand on float16", async () => {
    const part = await partOf("dev-like", "transformer");
    const golden = manifest.networks.find(({ network }) => network === "transformer")!;
    const inputs = networkInputs(golden, part);
    const exact = await run(fluxTransformerGraph(part, "float32"), inputs);
    const first = await run(fluxTransformerGraph(part, "float16", { first: 0, end: 2 }), inputs);
    const handed = Object.values(first);
    expect(handed.map(({ type }) => type)).toEqual(["float16", "float16", "float16"]);
    expect(handed.flatMap((value) => [...values(value)]).every(Number.isFinite)).toBe(true);
    const rest = fluxTransformerGraph(part, "float16", { first: 2, end: 5 });
    const { sample } = await run(rest, { ...inputs, ...first });
    const expected = exact["sample"]!.data as Float32Array;
    expect(relativeError(values(sample!), expected)).toBeLessThan(FLOAT16_TOLERANCE);
  });
});

function values({ type, data }: Tensor): Float32Array {
  return type === "float16"
    ? Float32Array.from(data as Uint16Array, float16Value)
    : (data as Float32Array);
}

describe("the portable recipe computes what the fused one does", () => {
  test.for(cases)("$network of $checkpoint", async ({ network, checkpoint }) => {
    const part = await partOf(checkpoint, network);
    const portable = BUILDERS[network]!(part, "float32", "portable");
    expect(portable.nodes.filter(({ operator }) => operator === "MultiHeadAttention")).toEqual([]);
    for (const golden of manifest.networks) {
      if (golden.network !== network || golden.checkpoint !== checkpoint) continue;
      const inputs = networkInputs(golden, part);
      const expected = await run(BUILDERS[network]!(part, "float32"), inputs);
      const results = await run(portable, inputs);
      for (const [name, { data }] of Object.entries(expected)) {
        const error = relativeError(results[name]!.data as Float32Array, data as Float32Array);
        expect(error, `${golden.name}: ${name}`).toBeLessThan(NETWORK_TOLERANCE);
      }
    }
  });
});

describe("bfloat16 passes the runtime's type check and lacks only kernels on the CPU", () => {
  test.for(cases)("$network of $checkpoint", async ({ network, checkpoint }) => {
    const graph = BUILDERS[network]!(await partOf(checkpoint, network), "bfloat16");
    const error = await openSession(toGraph(graph), CPU).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(AppError);
    expect((error as AppError).reason).toBe("RUN_TYPE_NOT_SUPPORTED");
  });
});
