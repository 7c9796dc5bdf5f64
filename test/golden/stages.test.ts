/**
 * What a pipeline and a batch rest on, bit for bit on the CPU provider: a denoiser cut into stages
 * anywhere predicts what the whole one predicts, and a row predicts the same alone and among
 * others. Rows differ in everything that requests may differ in: latents, text, timestep, guidance.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { openSession, type OnnxSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { prepareQuantised } from "@fluxline/gpu-node/adapters/quantisation/quantised-cache.ts";
import { component } from "@fluxline/gpu-node/core/checkpoint.ts";
import type { Graph } from "@fluxline/gpu-node/core/image-model.ts";
import {
  elementCount,
  float32Tensor,
  int64Tensor,
  type NamedTensors,
  type Tensor,
} from "@fluxline/gpu-node/core/tensor.ts";
import {
  allBlocks,
  fluxTransformerGraph,
  readFluxTransformerConfig,
  type BlockRange,
  type FluxTransformerConfig,
} from "@fluxline/gpu-node/models/flux-transformer.ts";
import {
  guidanceEmbedding,
  imagePositions,
  ropeTables,
  textPositions,
  timestepEmbedding,
} from "@fluxline/gpu-node/models/flux-positions.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkpointFolder, manifest } from "./golden-data.ts";

const SHARED = new Set(["rope_cos", "rope_sin", "text_length"]);
const ROWS = 4;

interface Shape {
  readonly rows: number;
  readonly columns: number;
  readonly textTokens: number;
}

const SHAPES: readonly Shape[] = [
  { rows: 3, columns: 5, textTokens: 7 },
  { rows: 1, columns: 1, textTokens: 1 },
  { rows: 12, columns: 17, textTokens: 40 },
];

interface Stage {
  readonly graph: Graph;
  readonly session: OnnxSession;
}

const folder = mkdtempSync(join(tmpdir(), "fluxline-stages-"));
afterAll(() => rmSync(folder, { recursive: true }));

const precisions = manifest.checkpoints.flatMap(({ name }) =>
  (["float32", "int8"] as const).map((precision) => ({ name, precision })),
);

describe.each(precisions)("the denoiser of $name in $precision", ({ name, precision }) => {
  const opened: OnnxSession[] = [];
  let config: FluxTransformerConfig;
  let stage: (blocks: BlockRange, threads?: number) => Promise<Stage>;
  let whole: Stage;

  beforeAll(async () => {
    const checkpoint = await openCheckpoint(checkpointFolder(name));
    const part = component(checkpoint, "transformer");
    const quantised = precision === "int8" ? { folder, model: checkpoint.digest } : undefined;
    config = readFluxTransformerConfig(part);
    stage = async (blocks, threads = 1) => {
      const graph = toGraph(fluxTransformerGraph(part, "float32", blocks, "fused", quantised));
      const session = await openSession(graph, { provider: "cpu", threads });
      opened.push(session);
      return { graph, session };
    };
    // The files of all blocks serve every cut.
    const { quantised: files } = fluxTransformerGraph(
      part,
      "float32",
      undefined,
      "fused",
      quantised,
    );
    await prepareQuantised(files, { threads: 1, log: () => undefined });
    whole = await stage(allBlocks(config));
  });

  afterAll(async () => {
    for (const session of opened) await session.close();
  });

  test.each(SHAPES)("cut anywhere gives the same bits, $rows x $columns", async (shape) => {
    const inputs = batch(config, shape, 2);
    const expected = await predict([whole], inputs);
    const { end } = allBlocks(config);
    for (let cut = 1; cut < end; cut++) {
      const stages = [await stage({ first: 0, end: cut }), await stage({ first: cut, end })];
      expect(await predict(stages, inputs), `cut at ${cut}`).toEqual(expected);
    }
  });

  test("a stage for every block gives the same bits", async () => {
    const inputs = batch(config, SHAPES[0]!, 3);
    const stages: Stage[] = [];
    for (let first = 0; first < allBlocks(config).end; first++) {
      stages.push(await stage({ first, end: first + 1 }));
    }
    expect(await predict(stages, inputs)).toEqual(await predict([whole], inputs));
  });

  test.each(SHAPES)("rows do not see their batch, $rows x $columns", async (shape) => {
    const together = await predict([whole], batch(config, shape, ROWS));
    const size = together.length / ROWS;
    for (let row = 0; row < ROWS; row++) {
      const alone = await predict([whole], onlyRow(batch(config, shape, ROWS), row));
      expect(together.subarray(row * size, (row + 1) * size), `row ${row}`).toEqual(alone);
    }
  });

  test("the number of threads does not matter", async () => {
    const inputs = batch(config, SHAPES[2]!, 2);
    const expected = await predict([whole], inputs);
    for (const threads of [2, 3]) {
      const other = await stage(allBlocks(config), threads);
      expect(await predict([other], inputs), `${threads} threads`).toEqual(expected);
    }
  });
});

/** Runs a chain as a driver does: each stage gets what the one before gave, and the shared inputs. */
async function predict(stages: readonly Stage[], inputs: NamedTensors): Promise<Float32Array> {
  let handed = inputs;
  for (const { graph, session } of stages) {
    const feeds = graph.inputs.map(({ name }) => {
      const value = SHARED.has(name) ? inputs[name] : handed[name];
      if (value === undefined) throw new Error(`${graph.name} needs ${name}`);
      return [name, value];
    });
    handed = await session.run(Object.fromEntries(feeds));
  }
  const { data } = handed["sample"]!;
  if (!(data instanceof Float32Array)) throw new Error("the prediction is not float32");
  expect(data.every(Number.isFinite)).toBe(true);
  return data;
}

function batch(config: FluxTransformerConfig, shape: Shape, rows: number): NamedTensors {
  const random = new Random(7);
  const noise = (...dims: number[]): Tensor =>
    float32Tensor(
      Float32Array.from({ length: elementCount(dims) }, () => 4 * random.float() - 2),
      dims,
    );
  const stacked = (values: readonly Float32Array[]): Tensor => {
    const data = new Float32Array(values.flatMap((value) => [...value]));
    return float32Tensor(data, [values.length, data.length / values.length]);
  };
  const numbers = Array.from({ length: rows }, (_, row) => row);
  const imageTokens = shape.rows * shape.columns;
  const positions = [
    ...textPositions(shape.textTokens),
    ...imagePositions(shape.rows, shape.columns),
  ];
  const { cos, sin } = ropeTables(config.axesDims, positions);
  return {
    hidden_states: noise(rows, imageTokens, config.inChannels),
    encoder_hidden_states: noise(rows, shape.textTokens, config.textWidth),
    pooled_projections: noise(rows, config.pooledWidth),
    timestep_embedding: stacked(
      numbers.map((row) => timestepEmbedding(1000 - 219.3 * row, "float32")),
    ),
    guidance_embedding: stacked(numbers.map((row) => guidanceEmbedding(1 + 1.7 * row, "float32"))),
    rope_cos: cos,
    rope_sin: sin,
    text_length: int64Tensor([shape.textTokens], [1]),
  };
}

function onlyRow(inputs: NamedTensors, row: number): NamedTensors {
  const cut = ([name, tensor]: [string, Tensor]): [string, Tensor] => {
    if (SHARED.has(name)) return [name, tensor];
    const size = tensor.data.length / (tensor.dims[0] ?? 1);
    const data = tensor.data.slice(row * size, (row + 1) * size);
    return [name, { ...tensor, dims: [1, ...tensor.dims.slice(1)], data }];
  };
  return Object.fromEntries(Object.entries(inputs).map(cut));
}
