import { expect, test } from "vitest";
import { mergeShards, pipelineClass } from "./checkpoint.ts";
import { JsonConfig } from "./json-config.ts";
import type { StoredTensor, TensorIndex } from "./safetensors.ts";

const FILE = "/models/x/transformer/model.safetensors.index.json";

function shard(file: string, ...names: string[]): [string, TensorIndex] {
  const tensors = names.map((name): [string, StoredTensor] => [
    name,
    { name, dtype: "F32", shape: [1], file: `/models/x/transformer/${file}`, offset: 8, length: 4 },
  ]);
  return [file, new Map(tensors)];
}

const index = (weight_map: unknown) => new JsonConfig(FILE, { weight_map });

test("joins the shards under one index", () => {
  const shards = new Map([shard("1.safetensors", "a", "b"), shard("2.safetensors", "c")]);
  const merged = mergeShards(
    index({ a: "1.safetensors", c: "2.safetensors", b: "1.safetensors" }),
    shards,
  );
  expect([...merged.keys()]).toEqual(["a", "c", "b"]);
  expect(merged.get("c")?.file).toBe("/models/x/transformer/2.safetensors");
});

test.for<[string, unknown, string]>([
  ["a shard that does not exist", { a: "9.safetensors" }, "9.safetensors does not exist"],
  ["a tensor that its shard does not hold", { z: "1.safetensors" }, "weight_map: z"],
  ["a shard outside the folder", { a: "../1.safetensors" }, '"../1.safetensors"'],
  ["a shard that is no name", { a: 1 }, "weight_map: a"],
  ["a map that is a list", ["1.safetensors"], "weight_map"],
  ["no map", undefined, "weight_map: is nothing"],
])("refuses %s", ([, map, words]) => {
  const shards = new Map([shard("1.safetensors", "a")]);
  expect(() => mergeShards(index(map), shards)).toThrow(FILE);
  expect(() => mergeShards(index(map), shards)).toThrow(words);
});

test("names the pipeline that it cannot run, and those that it can", () => {
  const file = "/models/x/model_index.json";
  const other = new JsonConfig(file, { _class_name: "StableDiffusionXLPipeline" });
  expect(pipelineClass(other, [])).toBe("StableDiffusionXLPipeline");
  expect(() => pipelineClass(other, ["FluxPipeline"])).toThrow(
    `${file}: _class_name: is "StableDiffusionXLPipeline"; use a model folder of: FluxPipeline`,
  );
  expect(() => pipelineClass(new JsonConfig(file, {}), ["FluxPipeline"])).toThrow("_class_name");
});
