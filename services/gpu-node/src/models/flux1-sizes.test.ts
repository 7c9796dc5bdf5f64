/** What a plan counts is what is there: against the tensors of real checkpoints, and of FLUX.1-dev. */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { openCheckpoint, openGeometry } from "../adapters/checkpoint-folder.ts";
import { type Checkpoint, component } from "../core/checkpoint.ts";
import { PUBLISHED_OPERATIONS } from "../core/device-offer.ts";
import { type Precision, PRECISIONS } from "../core/precision.ts";
import { codeBytes, quantisedBytes } from "../core/quantisation.ts";
import type { StoredTensor } from "../core/safetensors.ts";
import { elementCount } from "../core/tensor.ts";
import { stepOperations } from "./flux-cost.ts";
import { readFluxTransformerConfig } from "./flux-transformer.ts";
import { flux1Sizes } from "./flux1-sizes.ts";
import { readVaeConfig, vaeDecoderGraph } from "./vae.ts";
import { vaeOperationsPerPixel } from "./flux1-sizes.ts";

const root = fileURLToPath(new URL("../../../../", import.meta.url));
const goldens = `${root}test/golden/data/checkpoints`;
const folders = [
  ...readdirSync(goldens).map((name) => `${goldens}/${name}`),
  `${root}models/flux-tiny`,
];
const geometry = `${root}docs/examples/flux1-dev-geometry`;

const sizesOf = (checkpoint: Checkpoint, precision: Precision, provider = "cuda") =>
  flux1Sizes(checkpoint, { precision, provider, pixels: 1024 ** 2, textTokens: 512 });

function partBytes(checkpoint: Checkpoint, type: Precision, provider: string) {
  const { blocks, components } = sizesOf(checkpoint, type, provider);
  return {
    transformer: blocks.reduce((sum, { weightBytes }) => sum + weightBytes, 0),
    ...Object.fromEntries(components.map(({ name, weightBytes }) => [name, weightBytes])),
  };
}

/** The same, tensor by tensor of the files. */
function tensorBytes(checkpoint: Checkpoint, type: Precision, provider: string) {
  const half = provider === "cpu" ? "float32" : "float16";
  const computed = type === "int8" || type === "float16" ? half : type;
  const bytes = computed === "float32" ? 4 : 2;
  const total = (part: string, of: (tensor: StoredTensor) => number): number =>
    [...component(checkpoint, part).weights.values()].reduce((sum, one) => sum + of(one), 0);
  const table = ({ length }: StoredTensor): number => (provider === "cpu" ? 0 : length);
  const plain = ({ shape }: StoredTensor): number => elementCount(shape) * bytes;
  const packed = provider === "cpu" ? 4 / 128 : 0;
  const linear = ({ shape: [outputs = 0, inputs = 0] }: StoredTensor): number =>
    quantisedBytes(outputs, inputs) + packed * codeBytes(outputs, inputs);
  return {
    transformer: total("transformer", (tensor) => {
      const inBlock = /transformer_blocks\.\d+\..*weight$/.test(tensor.name);
      return type === "int8" && inBlock && tensor.shape.length === 2
        ? linear(tensor)
        : plain(tensor);
    }),
    clip: total("text_encoder", (tensor) => {
      if (tensor.name.endsWith("position_ids")) return 0; // of old files; nobody reads it
      return tensor.name.endsWith("token_embedding.weight") ? table(tensor) : plain(tensor);
    }),
    t5: total("text_encoder_2", (tensor) => {
      if (tensor.name === "encoder.embed_tokens.weight") return 0; // equals shared.weight
      if (tensor.name === "shared.weight") return table(tensor);
      const inBlock = /\.(q|k|v|o|wi|wi_0|wi_1|wo)\.weight$/.test(tensor.name);
      if (type === "int8" && inBlock) return linear(tensor);
      // In float16 sums and what is added to them stay in float32.
      const wide = computed === "float16" && /(wo|layer_norm)\.weight$/.test(tensor.name);
      return elementCount(tensor.shape) * (wide ? 4 : bytes);
    }),
    vae: vaeDecoderGraph(component(checkpoint, "vae"), computed).initializers.reduce(
      (sum, { name, dims, data }) => {
        if (data instanceof Uint8Array) return sum;
        return sum + elementCount(dims as number[]) * (/norm/.test(name) ? 4 : bytes);
      },
      0,
    ),
  };
}

describe.each(folders)("%s", (folder) => {
  test.each(PRECISIONS.flatMap((type) => ["cpu", "cuda"].map((provider) => [type, provider])))(
    "as %s on %s: the parts weigh what their tensors do",
    async (type, provider) => {
      const checkpoint = await openCheckpoint(folder!);
      const found = partBytes(checkpoint, type as Precision, provider!);
      expect(found).toEqual(tensorBytes(checkpoint, type as Precision, provider!));
    },
  );

  test("weighs the same without its weights", async () => {
    const checkpoint = await openCheckpoint(folder!);
    const components = new Map(
      [...checkpoint.components].map(([name, part]) => {
        const stored = [...part.weights.values()].find(({ dtype }) => /F/.test(dtype))!;
        return [name, { ...part, weights: new Map(), assumedType: stored.dtype }];
      }),
    );
    const bare = { ...checkpoint, components };
    for (const type of PRECISIONS) {
      expect(sizesOf(bare, type)).toEqual(sizesOf(checkpoint, type));
    }
  });
});

describe("FLUX.1-dev, from its configs alone", () => {
  test("has the parameters that it is known for", async () => {
    const bytes = partBytes(await openGeometry(geometry), "bfloat16", "cuda");
    const billions = Object.fromEntries(
      Object.entries(bytes).map(([name, count]) => [name, (count / 2e9).toFixed(2)]),
    );
    expect(billions).toEqual({ transformer: "11.90", clip: "0.12", t5: "4.76", vae: "0.05" });
  });

  test("takes the operations that published speeds are scaled by", async () => {
    const config = readFluxTransformerConfig(
      component(await openGeometry(geometry), "transformer"),
    );
    const operations = 28 * stepOperations(config, 4096, 512);
    expect(operations / PUBLISHED_OPERATIONS).toBeCloseTo(1, 2);
  });

  test("decodes with the convolutions of its decoder", async () => {
    const vae = component(await openGeometry(geometry), "vae");
    // Counted in the graph: each convolution's kernel over the pixels of its level.
    const graph = vaeDecoderGraph(vae, "bfloat16");
    const kernels = new Map(graph.initializers.map(({ name, dims }) => [name, dims]));
    let level = 3;
    let operations = 0;
    for (const { name, operator, inputs } of graph.nodes) {
      const upsampled = /^up\.(\d)\.upsample\.resized$/.exec(name);
      if (upsampled) level = 2 - Number(upsampled[1]);
      if (operator !== "Conv") continue;
      operations += (2 * elementCount(kernels.get(inputs[1]!) as number[])) / 4 ** level;
    }
    expect(vaeOperationsPerPixel(readVaeConfig(vae))).toBeCloseTo(operations, 6);
  });
});
