import { expect, test } from "vitest";
import {
  listedDigest,
  type ListedFile,
  partFolders,
  smallFiles,
  weightFiles,
} from "./model-files.ts";

const listed = (...paths: string[]): ListedFile[] =>
  paths.map((path) => ({ path, size: 1, gitSha1: undefined, sha256: undefined }));
const pathsOf = (files: readonly ListedFile[]): string[] => files.map(({ path }) => path);

const index = JSON.stringify({
  _class_name: "FluxPipeline",
  transformer: ["diffusers", "FluxTransformer2DModel"],
  vae: ["diffusers", "AutoencoderKL"],
  image_encoder: [null, null],
  requires_safety_checker: false,
  "../x": ["a", "b"],
});
const folders = partFolders(index);

test("parts are the pairs of the index that have a class, and no path that leaves the folder", () => {
  expect(folders).toEqual(["transformer", "vae"]);
});

test("small files are those of the folder and its parts", () => {
  const files = listed(
    "model_index.json",
    "README.md",
    "LICENSE.txt",
    "vae/config.json",
    "other/config.json",
    "vae/deep/config.json",
    "vae/model.bin",
  );
  const wanted = ["model_index.json", "LICENSE.txt", "vae/config.json"];
  expect(pathsOf(smallFiles(files, folders))).toEqual(wanted);
});

test("weights are those that a checkpoint is opened from", () => {
  const files = listed(
    "flux1-dev.safetensors",
    "transformer/diffusion_pytorch_model.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00003-of-00003.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/model.safetensors",
  );
  const map = {
    weight_map: {
      a: "diffusion_pytorch_model-00001-of-00002.safetensors",
      b: "diffusion_pytorch_model-00002-of-00002.safetensors",
      c: "diffusion_pytorch_model-00001-of-00002.safetensors",
    },
  };
  expect(pathsOf(weightFiles(files, folders, () => JSON.stringify(map)))).toEqual([
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
  ]);
});

test("a digest is sha256 where it is given, else git's, else none", () => {
  const file = { path: "a", size: 3, gitSha1: "g", sha256: "s" };
  expect(listedDigest(file)).toEqual({ algorithm: "sha256", prefix: "", hex: "s" });
  const small = { ...file, sha256: undefined };
  expect(listedDigest(small)).toEqual({ algorithm: "sha1", prefix: "blob 3\0", hex: "g" });
  expect(listedDigest({ ...small, gitSha1: undefined })).toBeUndefined();
});
