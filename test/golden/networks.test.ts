/** Each network's outputs, and every block of one transformer, are those of diffusers. */
import { ropeTables } from "@fluxline/gpu-node/models/flux-positions.ts";
import { describe, expect, test } from "vitest";
import { NETWORK_TOLERANCE, relativeError, tensorError } from "./comparison.ts";
import { floats, manifest, tensor, type NetworkCase } from "./golden-data.ts";
import { caseOf, runNetwork } from "./network-run.ts";

const INTERMEDIATE = caseOf("dev-like", "transformer", "two rows, odd sizes");
const isIntermediate = (golden: NetworkCase): boolean => golden === INTERMEDIATE;

describe.for(["transformer", "text_encoder", "text_encoder_2", "vae.decoder", "vae.encoder"])(
  "%s",
  (network) => {
    const cases = manifest.networks.filter((golden) => golden.network === network);

    test.for(cases)("$checkpoint: $name", async (golden) => {
      const results = await runNetwork(golden);
      for (const [name, output] of Object.entries(golden.outputs)) {
        if (isIntermediate(golden) && name !== "sample") continue;
        const error = tensorError(results[name]!, tensor(golden.file, output.tensor));
        expect(error, name).toBeLessThanOrEqual(NETWORK_TOLERANCE);
      }
    });
  },
);

/** Golden name -> node of our graph, for values that stand in both. */
const SAME_VALUES: Readonly<Record<string, string>> = {
  x_embedder: "img.embed",
  context_embedder: "txt.embed",
  temb: "temb.sum",
  "double.0.img": "double.0.img.mlp.sum",
  "double.0.txt": "double.0.txt.mlp.sum",
  "double.1.img": "double.1.img.mlp.sum",
  "double.1.txt": "double.1.txt.mlp.sum",
  norm_out: "final.norm",
};
const SINGLE_BLOCKS = [0, 1, 2];

describe("inside the transformer of dev-like", () => {
  const golden = (name: string) => tensor(INTERMEDIATE.file, INTERMEDIATE.outputs[name]!.tensor);

  test.for(Object.entries(SAME_VALUES))("%s", async ([name, node]) => {
    const { [node]: value } = await runNetwork(INTERMEDIATE, {}, [node]);
    expect(tensorError(value!, golden(name))).toBeLessThanOrEqual(NETWORK_TOLERANCE);
  });

  // A single block's stream holds text and image; diffusers gives them apart.
  test.for(SINGLE_BLOCKS)("single.%i", async (block) => {
    const node = `single.${block}.sum`;
    const { [node]: value } = await runNetwork(INTERMEDIATE, {}, [node]);
    const parts = [golden(`single.${block}.txt`), golden(`single.${block}.img`)];
    const [batch = 0, tokens = 0, width = 0] = value!.dims;
    const [text, image] = parts.map(({ dims }) => dims[1]!);
    expect(tokens).toBe(text! + image!);
    const joined = Array.from({ length: batch }, (_, row) =>
      parts.map(({ dims, data }) => {
        const size = dims[1]! * width;
        return Array.from(data.subarray(row * size, (row + 1) * size));
      }),
    ).flat(2);
    const error = relativeError(value!.data as Float32Array, joined);
    expect(error).toBeLessThanOrEqual(NETWORK_TOLERANCE);
  });

  // diffusers repeats each angle for both channels of a pair.
  test("rotation tables", () => {
    const ids = floats(INTERMEDIATE.file, INTERMEDIATE.inputs["img_ids"]!);
    const text = INTERMEDIATE.settings.textTokens!;
    const positions = Array.from({ length: text + ids.length / 3 }, (_, token) =>
      token < text
        ? [0, 0, 0]
        : Array.from(ids.subarray(3 * (token - text), 3 * (token - text) + 3)),
    );
    const tables = ropeTables([8, 12, 12], positions);
    for (const name of ["cos", "sin"] as const) {
      const once = golden(`rope.${name}`).data.filter((_, i) => i % 2 === 0);
      expect(relativeError(tables[name].data as Float32Array, once)).toBeLessThanOrEqual(1e-7);
    }
  });
});
