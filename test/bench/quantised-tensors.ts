/** Errors of single networks in int8, and their time over float32's. */
import { join } from "node:path";
import { Random } from "@fluxline/kernel/random.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { openSession, type OnnxSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { prepareQuantised } from "@fluxline/gpu-node/adapters/quantisation/quantised-cache.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import {
  elementCount,
  float32Tensor,
  int64Tensor,
  type NamedTensors,
  type Tensor,
} from "@fluxline/gpu-node/core/tensor.ts";
import { readFluxTransformerConfig } from "@fluxline/gpu-node/models/flux-config.ts";
import {
  guidanceEmbedding,
  imagePositions,
  ropeTables,
  textPositions,
  timestepEmbedding,
} from "@fluxline/gpu-node/models/flux-positions.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { Network } from "@fluxline/gpu-node/models/network.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import type { OnnxGraph } from "@fluxline/gpu-node/onnx/graph.ts";
import { relativeError, rmsError } from "../golden/comparison.ts";
import { type Measurement, median, rangeText } from "./measurement.ts";
import { randomT5 } from "./random-t5.ts";

const THREADS = 2;
const T5_TOKENS = 256;
/** The sides take turns for so long, and so often at least. */
const TURNS_MS = 8_000;
const ROUNDS_MIN = 5;

export interface Geometry {
  readonly name: string;
  folder(): string;
}

interface Sides {
  readonly exact: OnnxSession;
  readonly int8: OnnxSession;
}

/** Both sides of a network, loaded; `build` with a place or without. */
async function open(
  build: (place?: { folder: string; model: string }) => OnnxGraph,
  place: { folder: string; model: string },
): Promise<Sides> {
  const session = (graph: OnnxGraph) =>
    openSession(toGraph(graph), { provider: "cpu", threads: THREADS });
  const quantised = build(place);
  await prepareQuantised(quantised.quantised, { threads: THREADS, log: () => undefined });
  return { exact: await session(build()), int8: await session(quantised) };
}

async function close({ exact, int8 }: Sides): Promise<void> {
  await exact.close();
  await int8.close();
}

async function transformer({ folder }: Geometry, cache: string) {
  const checkpoint = await openCheckpoint(folder());
  const part = component(checkpoint, "transformer");
  const place = { folder: cache, model: checkpoint.digest };
  const sides = await open(
    (given) => fluxTransformerGraph(part, "float32", undefined, "fused", given),
    place,
  );
  return { part, place, sides };
}

export async function quantisedErrors(
  geometries: readonly Geometry[],
  cache: string,
): Promise<Measurement[]> {
  const found: Measurement[] = [];
  for (const geometry of geometries) {
    const { part, sides } = await transformer(geometry, cache);
    const inputs = transformerInputs(part, 16, 16, 64);
    const name = `prediction, ${geometry.name}`;
    found.push(...(await errors(name, sides, inputs, "random weights, 256 + 64 tokens")));
    await close(sides);
  }
  const part = randomT5(join(cache, "t5.safetensors"));
  const sides = await open((given) => t5EncoderGraph(part, "float32", "fused", given), {
    folder: cache,
    model: "random-t5",
  });
  const random = new Random(9);
  const ids = Array.from({ length: T5_TOKENS }, () => random.below(1000));
  const inputs = { input_ids: int64Tensor(ids, [1, T5_TOKENS]) };
  const note = `random weights, d_model 1024, 6 layers, ${T5_TOKENS} tokens`;
  found.push(...(await errors("T5's hidden states", sides, inputs, note)));
  await close(sides);
  return found;
}

async function errors(
  name: string,
  { exact, int8 }: Sides,
  inputs: NamedTensors,
  note: string,
): Promise<Measurement[]> {
  const [golden, actual] = [await exact.run(inputs), await int8.run(inputs)].map(
    (outputs) => Object.values(outputs)[0]!.data as Float32Array,
  );
  const value = (of: typeof rmsError) => 100 * of(actual!, golden!);
  return [
    { name: `int8 ${name}: rms error`, value: value(rmsError), unit: "%", note },
    { name: `int8 ${name}: largest error`, value: value(relativeError), unit: "% of max", note },
  ];
}

/** [image rows, image columns, text tokens] */
const SIZES = [
  [4, 8, 32],
  [16, 16, 128],
  [16, 32, 256],
] as const;

export async function quantisedSpeed(
  geometries: readonly Geometry[],
  cache: string,
): Promise<Measurement[]> {
  const found: Measurement[] = [];
  for (const geometry of geometries) {
    const { part, place, sides } = await transformer(geometry, cache);
    found.push(await modulationSpeed(geometry.name, part, place));
    for (const [rows, columns, text] of SIZES) {
      const inputs = transformerInputs(part, rows, columns, text);
      const name = `${geometry.name}: step of ${rows * columns + text} tokens`;
      found.push(await turns(name, sides, inputs));
    }
    await close(sides);
  }
  return found;
}

/** The one linear layer that has a single row: conditioning to the modulation of a block. */
async function modulationSpeed(
  name: string,
  part: Component,
  place: { folder: string; model: string },
): Promise<Measurement> {
  const { width } = readFluxTransformerConfig(part);
  const sides = await open((given) => {
    const network = new Network(part, "modulation", "float32", "fused", given);
    const input = network.floatInput("temb", ["B", width]);
    const shape = { inputs: width, outputs: 6 * width };
    const at = "transformer_blocks.0.norm1.linear";
    const out = network.block("bench", () => network.linear2d("out", input, at, shape));
    network.floatOutput("sample", out, ["B", 6 * width]);
    return network.build.graph;
  }, place);
  const inputs = { temb: noise(new Random(2), [1, width]) };
  const found = await turns(`${name}: modulation, one row`, sides, inputs);
  await close(sides);
  return found;
}

interface Spent {
  /** Milliseconds. */
  readonly wall: number;
  /** Milliseconds of all threads, which neighbours on the machine disturb less. */
  readonly cpu: number;
}

async function turns(name: string, sides: Sides, inputs: NamedTensors): Promise<Measurement> {
  const spent = async (session: OnnxSession): Promise<Spent> => {
    const [begun, usage] = [performance.now(), process.cpuUsage()];
    await session.run(inputs);
    const wall = performance.now() - begun;
    const { user, system } = process.cpuUsage(usage);
    return { wall, cpu: (user + system) / 1000 };
  };
  const pairs: { exact: Spent; int8: Spent }[] = [];
  const endMs = performance.now() + TURNS_MS;
  for (let round = -1; round < ROUNDS_MIN || performance.now() < endMs; round++) {
    const pair = { exact: await spent(sides.exact), int8: await spent(sides.int8) };
    if (round >= 0) pairs.push(pair); // the first is to warm up
  }
  const ratios = (of: (one: Spent) => number): number[] =>
    pairs.map(({ exact, int8 }) => of(int8) / of(exact)).toSorted((a, b) => a - b);
  const cpu = ratios((one) => one.cpu);
  const middle = rangeText([cpu[cpu.length >> 2]!, cpu[(3 * cpu.length) >> 2]!]);
  const wall = median(ratios((one) => one.wall)).toFixed(2);
  const milliseconds = median(pairs.map(({ exact }) => exact.cpu)).toFixed(2);
  const note =
    `CPU time, float32 ${milliseconds} ms; middle half of ${pairs.length}: ${middle}; ` +
    `by the clock ${wall}, ${THREADS} threads`;
  return { name: `${name}, int8 over float32`, value: median(cpu), unit: "ratio", note };
}

function noise(random: Random, dims: readonly number[]): Tensor {
  const data = Float32Array.from({ length: elementCount(dims) }, () => 4 * random.float() - 2);
  return float32Tensor(data, dims);
}

function transformerInputs(
  part: Component,
  rows: number,
  columns: number,
  text: number,
): NamedTensors {
  const { axesDims, inChannels, textWidth, pooledWidth } = readFluxTransformerConfig(part);
  const random = new Random(4);
  const positions = [...textPositions(text), ...imagePositions(rows, columns)];
  const { cos, sin } = ropeTables(axesDims, positions);
  return {
    hidden_states: noise(random, [1, rows * columns, inChannels]),
    encoder_hidden_states: noise(random, [1, text, textWidth]),
    pooled_projections: noise(random, [1, pooledWidth]),
    timestep_embedding: float32Tensor(timestepEmbedding(700, "float32"), [1, 256]),
    guidance_embedding: float32Tensor(guidanceEmbedding(3.5, "float32"), [1, 256]),
    rope_cos: cos,
    rope_sin: sin,
  };
}
