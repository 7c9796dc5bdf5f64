/**
 * Runs one network of a golden checkpoint, as built by the runtime from the checkpoint's own files:
 * the golden's inputs go in, outputs come out under the golden's names. A mutation may change the
 * graph, or the inputs, before it runs.
 */
import { checkpointFolder, floats, manifest, tensor, type NetworkCase } from "./golden-data.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { openSession, type OnnxSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { component, type Checkpoint, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import {
  float32Tensor,
  int64Tensor,
  type NamedTensors,
  type Tensor,
} from "@fluxline/gpu-node/core/tensor.ts";
import { clipTextGraph } from "@fluxline/gpu-node/models/clip-text.ts";
import {
  guidanceEmbedding,
  ropeTables,
  timestepEmbedding,
} from "@fluxline/gpu-node/models/flux-positions.ts";
import {
  fluxTransformerGraph,
  readFluxTransformerConfig,
} from "@fluxline/gpu-node/models/flux-transformer.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { vaeDecoderGraph, vaeEncoderGraph } from "@fluxline/gpu-node/models/vae.ts";
import type { OnnxGraph } from "@fluxline/gpu-node/onnx/graph.ts";

export const CPU = { provider: "cpu", threads: 1 } as const;
const SINUSOID_WIDTH = 256;

export interface Mutation {
  readonly graph?: (graph: OnnxGraph) => void;
  readonly inputs?: (inputs: NamedTensors) => NamedTensors;
}

export function caseOf(checkpoint: string, network: string, name: string): NetworkCase {
  const found = manifest.networks.find(
    (one) => one.checkpoint === checkpoint && one.network === network && one.name === name,
  );
  if (found === undefined) throw new Error(`no golden ${checkpoint}, ${network}, ${name}`);
  return found;
}

const checkpoints = new Map<string, Promise<Checkpoint>>();

export function goldenCheckpoint(name: string): Promise<Checkpoint> {
  let opened = checkpoints.get(name);
  if (opened === undefined) {
    opened = openCheckpoint(checkpointFolder(name));
    checkpoints.set(name, opened);
  }
  return opened;
}

interface NetworkKind {
  readonly part: string;
  graph(part: Component): OnnxGraph;
  inputs(golden: NetworkCase, part: Component): NamedTensors;
  /** The golden's outputs from the graph's. */
  outputs(results: NamedTensors, golden: NetworkCase, part: Component): Record<string, Tensor>;
}

const KINDS: Record<string, NetworkKind> = {
  transformer: {
    part: "transformer",
    graph: (part) => fluxTransformerGraph(part, "float32"),
    inputs: transformerInputs,
    outputs: (results) => results,
  },
  text_encoder: {
    part: "text_encoder",
    graph: (part) => clipTextGraph(part, "float32"),
    inputs: tokenInputs,
    outputs: ({ pooled_output: pooled, last_hidden_state }) => ({
      pooled: pooled!,
      last_hidden_state: last_hidden_state!,
    }),
  },
  text_encoder_2: {
    part: "text_encoder_2",
    graph: (part) => t5EncoderGraph(part, "float32"),
    inputs: tokenInputs,
    outputs: (results) => results,
  },
  "vae.decoder": {
    part: "vae",
    graph: (part) => vaeDecoderGraph(part, "float32"),
    inputs: decoderInputs,
    outputs: (results) => results,
  },
  "vae.encoder": {
    part: "vae",
    graph: (part) => vaeEncoderGraph(part, "float32"),
    inputs: (golden) => ({ sample: goldenInput(golden, "sample") }),
    outputs: encoderOutputs,
  },
};

/** The golden's inputs as the network's graph takes them. */
export function networkInputs(golden: NetworkCase, part: Component): NamedTensors {
  const kind = KINDS[golden.network];
  if (kind === undefined) throw new Error(`unknown network ${golden.network}`);
  return kind.inputs(golden, part);
}

/** `probes`: further values of the graph to give out, by the name of the node that makes them. */
export async function runNetwork(
  golden: NetworkCase,
  mutation: Mutation = {},
  probes: readonly string[] = [],
): Promise<Record<string, Tensor>> {
  const kind = KINDS[golden.network];
  if (kind === undefined) throw new Error(`unknown network ${golden.network}`);
  const part = component(await goldenCheckpoint(golden.checkpoint), kind.part);
  const graph = kind.graph(part);
  for (const name of probes) graph.outputs.push({ name, type: "float32", dims: ["a", "b", "c"] });
  mutation.graph?.(graph);
  const given = kind.inputs(golden, part);
  const session = await openSession(toGraph(graph), CPU);
  const results = await closing(session, mutation.inputs?.(given) ?? given);
  const probed = Object.fromEntries(probes.map((name) => [name, results[name]!]));
  return { ...kind.outputs(results, golden, part), ...probed };
}

async function closing(session: OnnxSession, inputs: NamedTensors): Promise<NamedTensors> {
  try {
    return await session.run(inputs);
  } finally {
    await session.close();
  }
}

export function goldenInput(golden: NetworkCase, name: string): Tensor {
  const { dims, data } = tensor(golden.file, golden.inputs[name] ?? `input ${name}`);
  if (data instanceof Float32Array) return float32Tensor(data, dims);
  return int64Tensor([...data], dims);
}

function tokenInputs(golden: NetworkCase): NamedTensors {
  return { input_ids: goldenInput(golden, "input_ids") };
}

function transformerInputs(golden: NetworkCase, part: Component): NamedTensors {
  const { axesDims, guidance } = readFluxTransformerConfig(part);
  const ids = [...triples(golden, "txt_ids"), ...triples(golden, "img_ids")];
  const { cos, sin } = ropeTables(axesDims, ids);
  const sigmas = [...(goldenInput(golden, "timestep").data as Float32Array)];
  const embeddings = sigmas.map((sigma) => timestepEmbedding(timestepOf(sigma), "float32"));
  const inputs = {
    hidden_states: goldenInput(golden, "hidden_states"),
    encoder_hidden_states: goldenInput(golden, "encoder_hidden_states"),
    pooled_projections: goldenInput(golden, "pooled_projections"),
    timestep_embedding: stacked(embeddings),
    rope_cos: cos,
    rope_sin: sin,
  };
  if (!guidance) return inputs;
  const scales = [...(goldenInput(golden, "guidance").data as Float32Array)];
  const embedded = scales.map((scale) => guidanceEmbedding(scale, "float32"));
  return { ...inputs, guidance_embedding: stacked(embedded) };
}

/** The scheduler's timestep that the pipeline divides into exactly this sigma. */
function timestepOf(sigma: number): number {
  const near = Math.fround(sigma * 1000);
  const spacing = 2 ** (Math.floor(Math.log2(near || 1)) - 23);
  const found = [0, 1, -1, 2, -2]
    .map((ulps) => near + ulps * spacing)
    .find((timestep) => Math.fround(timestep / 1000) === sigma);
  if (found === undefined) throw new Error(`no float32 timestep is 1000 times ${sigma}`);
  return found;
}

export function stacked(rows: readonly Float32Array[]): Tensor {
  const data = new Float32Array(rows.length * SINUSOID_WIDTH);
  for (const [i, row] of rows.entries()) data.set(row, i * SINUSOID_WIDTH);
  return float32Tensor(data, [rows.length, SINUSOID_WIDTH]);
}

function triples(golden: NetworkCase, name: string): number[][] {
  const data = floats(golden.file, golden.inputs[name] ?? name);
  return Array.from({ length: data.length / 3 }, (_, i) =>
    Array.from(data.subarray(3 * i, 3 * i + 3)),
  );
}

/** The pipeline's part between transformer and decoder: z / scaling_factor + shift_factor. */
function decoderInputs(golden: NetworkCase, { config }: Component): NamedTensors {
  const { data, dims } = goldenInput(golden, "latents");
  const [scale, shift] = [config.number("scaling_factor"), config.number("shift_factor")];
  const z = (data as Float32Array).map(
    (value) => Math.fround(value / Math.fround(scale)) + Math.fround(shift),
  );
  return { latent_sample: float32Tensor(z, dims) };
}

function encoderOutputs(
  { moments }: NamedTensors,
  golden: NetworkCase,
  { config }: Component,
): Record<string, Tensor> {
  const { dims } = tensor(golden.file, golden.outputs["mean"]!.tensor);
  const [batch = 0, ...rest] = dims;
  const size = rest.reduce((product, dim) => product * dim, 1);
  const all = moments!.data as Float32Array;
  const half = (which: 0 | 1): Float32Array => {
    const values = new Float32Array(batch * size);
    for (let row = 0; row < batch; row++) {
      const start = (2 * row + which) * size;
      values.set(all.subarray(start, start + size), row * size);
    }
    return values;
  };
  const [scale, shift] = [config.number("scaling_factor"), config.number("shift_factor")];
  const mean = half(0);
  const clamped = half(1).map((value) => Math.min(20, Math.max(-30, value)));
  return {
    mean: float32Tensor(mean, dims),
    logvar: float32Tensor(clamped, dims),
    latents: float32Tensor(
      mean.map((value) => (value - shift) * scale),
      dims,
    ),
  };
}
