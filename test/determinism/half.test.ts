/**
 * float16 on the CPU, which computes it in float32 and rounds where a tensor leaves a graph. Within
 * one plan of stages the promise holds as it does in float32; another cut is another numerics
 * class, and that it must be is shown here too.
 */
import { openSession, type OnnxSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { component, type Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import type { NamedTensors } from "@fluxline/gpu-node/core/tensor.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import type { BlockRange } from "@fluxline/gpu-node/models/flux-config.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import { afterEach, beforeAll, expect, test } from "vitest";
import { caseOf, goldenCheckpoint, networkInputs } from "../golden/network-run.ts";
import { batchOf, withTextLength } from "./row-batch.ts";

const BLOCKS = 5;
const WHOLE = [{ first: 0, end: BLOCKS }];
const CUT = [
  { first: 0, end: 2 },
  { first: 2, end: BLOCKS },
];

let part: Component;
let given: NamedTensors;
const opened: OnnxSession[] = [];

beforeAll(async () => {
  part = component(await goldenCheckpoint("dev-like"), "transformer");
  given = networkInputs(caseOf("dev-like", "transformer", "two rows, odd sizes"), part);
});

afterEach(async () => {
  for (const session of opened.splice(0)) await session.close();
});

/** The prediction of a chain of stages. */
async function predict(
  stages: readonly BlockRange[],
  inputs: NamedTensors,
  threads = 1,
): Promise<Float32Array> {
  let values = withTextLength(inputs);
  for (const blocks of stages) {
    const graph = toGraph(fluxTransformerGraph(part, "float16", blocks));
    const session = await openSession(graph, { provider: "cpu", threads });
    opened.push(session);
    values = { ...values, ...(await session.run(values)) };
  }
  return values["sample"]!.data as Float32Array;
}

test.each([
  ["whole", WHOLE],
  ["cut", CUT],
])("%s: neither mates nor threads change a row", async (_, stages) => {
  const alone = await predict(stages, batchOf(given, 1, 0));
  expect(alone.every(Number.isFinite)).toBe(true);
  for (const rows of [2, 3, 8]) {
    const all = await predict(stages, batchOf(given, rows, rows - 1), 1 + (rows % 2));
    expect(all.subarray((rows - 1) * alone.length), `${rows} rows`).toEqual(alone);
  }
});

test("a cut changes bits, so the class must name it", async () => {
  const inputs = batchOf(given, 1, 0);
  expect(await predict(CUT, inputs)).not.toEqual(await predict(WHOLE, inputs));
});
