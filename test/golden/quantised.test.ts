/**
 * Weights in int8. Two comparisons hold them: with the products taken in float32 the graph must be,
 * but for rounding, the float32 graph of the weights that its codes stand for; and as it is served it
 * must be near what diffusers computes in float32. The first is as tight as any golden, so that no
 * mistake hides in the width of the second; mistakes are made here to see it.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assert } from "@fluxline/kernel/assert.ts";
import type { NamedTensors, Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { toGraph } from "@fluxline/gpu-node/models/graph.ts";
import type { Initializer, OnnxGraph, OnnxNode } from "@fluxline/gpu-node/onnx/graph.ts";
import { afterAll, describe, expect, test } from "vitest";
import { LEAST_MISTAKE, NETWORK_TOLERANCE, relativeError, rmsError } from "./comparison.ts";
import { manifest, tensor } from "./golden-data.ts";
import { caseOf, networkInputs } from "./network-run.ts";
import {
  dequantisedGraph,
  QUANTISED_NETWORKS,
  quantisedGraph,
  run,
  withExactProducts,
} from "./quantised-run.ts";

/**
 * Of the root mean square, against diffusers: 0.044 at most over these networks, which are 16 to 80
 * wide; the wider a layer, the better its errors even out (docs/benchmarks.md has wide ones).
 */
const INT8_TOLERANCE = 0.05;

const folder = mkdtempSync(join(tmpdir(), "fluxline-quantised-"));
afterAll(() => rmSync(folder, { recursive: true }));

const cases = manifest.networks.filter(({ network }) => QUANTISED_NETWORKS.includes(network));

describe("in int8", () => {
  test.for(cases)("$checkpoint, $network, $name", async (golden) => {
    const { part, graph } = await quantisedGraph(golden.checkpoint, golden.network, folder);
    const inputs = networkInputs(golden, part);
    const meant = dequantisedGraph(golden.network, part, graph.quantised, folder);
    const [exact, expected] = [
      await run(withExactProducts(graph), inputs),
      await run(meant, inputs),
    ];
    const served = await run(graph, inputs);
    for (const [name, value] of Object.entries(served)) {
      expect(differenceOf(exact, expected), name).toBeLessThan(NETWORK_TOLERANCE);
      const { data } = tensor(golden.file, golden.outputs[name]!.tensor);
      const error = rmsError(value.data as Float32Array, data);
      expect(error, name).toBeLessThan(INT8_TOLERANCE);
      expect(error, "nothing was quantised").toBeGreaterThan(NETWORK_TOLERANCE);
    }
  });
});

/** What GPUs are given; the CPU computes float16 in float32 between roundings. */
describe("around int8 in", () => {
  const ways = (["float16", "float32"] as const).flatMap((runType) =>
    (["fused", "portable"] as const).flatMap((recipe) =>
      QUANTISED_NETWORKS.map((network) => ({ runType, recipe, network })),
    ),
  );
  test.for(ways)("$runType, $recipe: $network", async ({ runType, recipe, network }) => {
    const golden = manifest.networks.find((one) => one.network === network)!;
    const { part, graph } = await quantisedGraph(golden.checkpoint, network, folder, {
      runType,
      recipe,
    });
    const served = await run(graph, networkInputs(golden, part));
    for (const [name, value] of Object.entries(served)) {
      const { data } = tensor(golden.file, golden.outputs[name]!.tensor);
      expect(rmsError(value.data as Float32Array, data), name).toBeLessThan(INT8_TOLERANCE);
    }
  });
});

/** The network has one output. */
function differenceOf(actual: NamedTensors, expected: NamedTensors): number {
  const [a, b] = [actual, expected].map((all): Tensor => Object.values(all)[0]!);
  return relativeError(a!.data as Float32Array, b!.data as Float32Array);
}

describe("a mistake is seen:", () => {
  const shifted = (suffix: string, bytes: number) => (graph: OnnxGraph) => {
    for (const weight of graph.initializers.filter(({ name }) => name.endsWith(suffix))) {
      assert(!(weight.data instanceof Uint8Array), `${weight.name} lies in a file`);
      weight.data = { ...weight.data, offset: weight.data.offset + bytes };
    }
  };
  const mistakes: Readonly<Record<string, (graph: OnnxGraph) => void>> = {
    "the code of zero is 127": (graph) => {
      for (const product of graph.nodes.filter(isProduct)) addZeroCodes(graph, product, 127);
    },
    "each block has the scale of the one before": shifted(".scales", -4),
    "codes begin one byte early": shifted(".codes", -1),
    "rows begin one block late": shifted(".codes", 128),
    "one layer has the weights of another": (graph) => {
      const find = (name: RegExp) =>
        graph.nodes.find((one) => isProduct(one) && name.test(one.name));
      const [first, second] = [find(/attn\.q\./), find(/attn\.k\./)];
      [first!.inputs[1], second!.inputs[1]] = [second!.inputs[1]!, first!.inputs[1]!];
    },
  };
  const networks = QUANTISED_NETWORKS.map((network) => ({
    network,
    golden: manifest.networks.find((one) => one.network === network)!,
  }));
  const both = Object.keys(mistakes).flatMap((mistake) =>
    networks.map((one) => ({ mistake, ...one })),
  );

  test.for(both)("$mistake, $network", async ({ mistake, network, golden }) => {
    const { part, graph } = await quantisedGraph(golden.checkpoint, network, folder);
    const inputs = networkInputs(golden, part);
    const expected = await run(dequantisedGraph(network, part, graph.quantised, folder), inputs);
    const wrong = withExactProducts(graph);
    mistakes[mistake]!(wrong);
    const error = differenceOf(await run(wrong, inputs), expected);
    expect(error >= LEAST_MISTAKE * NETWORK_TOLERANCE || Number.isNaN(error), `${error}`).toBe(
      true,
    );
  });
});

function isProduct({ operator }: OnnxNode): boolean {
  return operator === "MatMulNBits";
}

/** Gives the product codes of zero of its own; without, they are 128. */
function addZeroCodes(graph: OnnxGraph, product: OnnxNode, code: number): void {
  const dims = initializer(graph, product.inputs[2]!).dims;
  const data = new Uint8Array(dims.reduce((count, dim) => count * dim, 1)).fill(code);
  const name = `${product.name}.zero`;
  graph.initializers.push({ name, type: "uint8", dims, data });
  product.inputs[3] = name;
}

function initializer(graph: OnnxGraph, name: string): Initializer {
  const found = graph.initializers.find((one) => one.name === name);
  assert(found !== undefined, `no initializer ${name}`);
  return found;
}

test("the graph counts what is loaded, and asks the checkpoint only for what it maps", async () => {
  const { checkpoint } = caseOf("dev-like", "transformer", "three rows");
  const { graph } = await quantisedGraph(checkpoint, "transformer", folder);
  const { weights, quantised, weightBytes } = toGraph(graph);
  const made = quantised.flatMap(({ tensors }) => tensors);
  const mapped = new Set(weights.map(({ file, offset }) => `${file} ${offset}`));
  expect(quantised).toHaveLength(5);
  expect(made.some(({ source }) => mapped.has(`${source.file} ${source.offset}`))).toBe(false);
  const inFiles = quantised.reduce((sum, { bytes }) => sum + bytes - 16_384, 0);
  const inPlace = weights.reduce((sum, { length }) => sum + length, 0);
  expect(weightBytes).toBe(inFiles + inPlace);
});
