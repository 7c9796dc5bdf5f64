/** Opens real folders on disk, sound ones and every way of being broken that we know. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import { afterAll, describe, expect, test } from "vitest";
import { component, configFile, textFile } from "../core/checkpoint.ts";
import { float32FileTensor, safetensorsFile } from "../core/safetensors-file.ts";
import { digestRanges } from "./checkpoint-digest.ts";
import { openCheckpoint } from "./checkpoint-folder.ts";

const scratch = mkdtempSync(join(tmpdir(), "checkpoint-folder-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const WEIGHTS = "transformer/diffusion_pytorch_model.safetensors";
const SHARD_INDEX = "vae/diffusion_pytorch_model.safetensors.index.json";

function weights(...names: string[]): Uint8Array {
  return safetensorsFile(
    Object.fromEntries(names.map((name, i) => [name, float32FileTensor([2], [i, i + 1])])),
  );
}

const SOUND: Readonly<Record<string, string | Uint8Array>> = {
  "model_index.json": JSON.stringify({
    _class_name: "FluxPipeline",
    _diffusers_version: "0.42.1",
    feature_extractor: [null, null],
    scheduler: ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    tokenizer: ["transformers", "CLIPTokenizer"],
    transformer: ["diffusers", "FluxTransformer2DModel"],
    vae: ["diffusers", "AutoencoderKL"],
  }),
  "scheduler/scheduler_config.json": '{"shift": 3}',
  "tokenizer/vocab.json": '{"a": 0}',
  "tokenizer/merges.txt": "#version: 0.2\na b\n",
  "transformer/config.json": '{"_class_name": "FluxTransformer2DModel"}',
  [WEIGHTS]: weights("x.weight", "x.bias"),
  "vae/config.json": '{"_class_name": "AutoencoderKL"}',
  [SHARD_INDEX]: JSON.stringify({
    weight_map: { a: "vae-1.safetensors", b: "vae-2.safetensors", c: "vae-1.safetensors" },
  }),
  "vae/vae-1.safetensors": weights("a", "c"),
  "vae/vae-2.safetensors": weights("b"),
};

let count = 0;

/** A folder with these files; `undefined` leaves one out. */
function folder(changes: Record<string, string | Uint8Array | undefined> = {}): string {
  const path = join(scratch, `model-${(count += 1)}`);
  for (const [name, content] of Object.entries({ ...SOUND, ...changes })) {
    if (content === undefined) continue;
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), content);
  }
  return path;
}

async function failure(path: string, pipelines: string[] = []): Promise<AppError> {
  const thrown = await openCheckpoint(path, pipelines).then(
    () => new Error("nothing was wrong"),
    (error: unknown) => error,
  );
  if (thrown instanceof AppError) return thrown;
  throw thrown;
}

test("a sound folder gives its texts and the place of every tensor", async () => {
  const path = folder();
  const checkpoint = await openCheckpoint(path, ["FluxPipeline"]);
  expect(checkpoint).toMatchObject({ directory: path, className: "FluxPipeline" });
  expect(path.endsWith(`/${checkpoint.name}`)).toBe(true);
  expect([...checkpoint.components.keys()]).toEqual(["transformer", "vae"]);
  expect(textFile(checkpoint, "tokenizer/merges.txt")).toContain("a b");
  expect(configFile(checkpoint, "scheduler/scheduler_config.json").integer("shift")).toBe(3);
  expect(checkpoint.texts.has(SHARD_INDEX)).toBe(false);
  const { weights: index } = component(checkpoint, "vae");
  expect([...index.keys()]).toEqual(["a", "b", "c"]);
  expect(index.get("b")?.file).toBe(join(path, "vae/vae-2.safetensors"));
  expect(() => component(checkpoint, "text_encoder")).toThrow("model_index.json: text_encoder: ");
  expect(() => textFile(checkpoint, "tokenizer/x.json")).toThrow("tokenizer/x.json: ");
});

test("a tokenizer of a class that is not known by name needs no weights", async () => {
  const listed = JSON.parse(String(SOUND["model_index.json"]));
  const path = folder({
    "model_index.json": JSON.stringify({ ...listed, tokenizer: ["x", "TokenizersBackend"] }),
    "tokenizer/tokenizer_config.json": "{}",
  });
  expect((await openCheckpoint(path)).components.has("tokenizer")).toBe(false);
});

test("a folder of links, as the hub's cache has them, is as good", async () => {
  const [real, linked] = [folder(), join(scratch, "linked")];
  for (const name of Object.keys(SOUND)) {
    mkdirSync(dirname(join(linked, name)), { recursive: true });
    symlinkSync(join(real, name), join(linked, name));
  }
  const [a, b] = [await openCheckpoint(real), await openCheckpoint(linked)];
  expect(b.digest).toBe(a.digest);
  expect(component(b, "transformer").weights.get("x.bias")?.file).toBe(join(linked, WEIGHTS));
});

describe("the digest", () => {
  test("is the same for a copy", async () => {
    const path = folder();
    cpSync(path, `${path}-copy`, { recursive: true });
    const [a, b] = [await openCheckpoint(path), await openCheckpoint(`${path}-copy`)];
    expect(a.digest).toMatch(/^[0-9a-f]{64}$/);
    expect(b.digest).toBe(a.digest);
  });

  test.for<[string, Record<string, string | Uint8Array>]>([
    ["a config", { "vae/config.json": '{"_class_name": "AutoencoderKL", "x": 1}' }],
    ["a tokenizer", { "tokenizer/merges.txt": "#version: 0.2\nb a\n" }],
    ["one weight of the same header", { "vae/vae-2.safetensors": oneValueChanged() }],
    ["the name of a tensor", { [WEIGHTS]: weights("x.weight", "y.bias") }],
  ])("changes with %s", async ([, changes]) => {
    const [a, b] = [await openCheckpoint(folder()), await openCheckpoint(folder(changes))];
    expect(b.digest).not.toBe(a.digest);
  });

  test("reads all of a file up to 64 MiB, and samples a larger one to its last byte", () => {
    for (const size of [0, 1, 5 * 2 ** 20, 64 * 2 ** 20]) {
      const total = digestRanges(size).reduce((sum, [, length]) => sum + length, 0);
      expect(total).toBe(size);
    }
    for (const size of [64 * 2 ** 20 + 1, 24e9]) {
      const ranges = digestRanges(size);
      const [position, length] = ranges.at(-1)!;
      expect(ranges[0]).toEqual([0, 4 * 2 ** 20]);
      expect(position + length).toBe(size);
      expect(ranges.reduce((sum, [, bytes]) => sum + bytes, 0)).toBeLessThan(9 * 2 ** 20);
    }
  });
});

function oneValueChanged(): Uint8Array {
  const bytes = weights("b");
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  return bytes;
}

describe("refuses", () => {
  type Changes = Record<string, string | Uint8Array | undefined>;
  const index = (weight_map: unknown): Changes => ({
    [SHARD_INDEX]: JSON.stringify({ weight_map }),
  });

  test.for<[string, Changes, string]>([
    ["a folder without model_index.json", { "model_index.json": undefined }, "model_index.json"],
    ["a model_index.json that is not JSON", { "model_index.json": "<html>" }, "is not JSON"],
    [
      "another pipeline",
      { "model_index.json": '{"_class_name": "StableDiffusionPipeline"}' },
      '_class_name: is "StableDiffusionPipeline"; use a model folder of: FluxPipeline',
    ],
    [
      "a part that is no pair",
      { "model_index.json": '{"_class_name": "FluxPipeline", "vae": ["x"]}' },
      "vae",
    ],
    [
      "a part outside the folder",
      { "model_index.json": '{"_class_name": "FluxPipeline", "../x": ["a", "b"]}' },
      "../x",
    ],
    [
      "a part without its folder",
      {
        "model_index.json":
          '{"_class_name": "FluxPipeline", "text_encoder": ["t", "CLIPTextModel"]}',
      },
      "/text_encoder: the file does not exist",
    ],
    ["a network without config.json", { "vae/config.json": undefined }, "vae/config.json"],
    ["a config that is not JSON", { "vae/config.json": "{" }, "vae/config.json: is not JSON"],
    ["a text that is not UTF-8", { "tokenizer/merges.txt": Uint8Array.of(0xff) }, "merges.txt"],
    ["missing weights", { [WEIGHTS]: undefined }, "diffusion_pytorch_model.safetensors or model"],
    ["a cut header", { [WEIGHTS]: weights("x.weight").subarray(0, 20) }, WEIGHTS],
    ["a cut tensor", { [WEIGHTS]: weights("x.weight").slice(0, -1) }, "x.weight"],
    ["a missing shard", { "vae/vae-2.safetensors": undefined }, "vae-2.safetensors does not exist"],
    ["a tensor that its shard lacks", { "vae/vae-2.safetensors": weights("z") }, "weight_map: b"],
    ["a shard index that is not JSON", { [SHARD_INDEX]: "" }, "index.json: is not JSON"],
    ["a shard outside the folder", index({ a: "../x.safetensors" }), "../x.safetensors"],
  ])("%s", async ([, changes, words]) => {
    const path = folder(changes);
    const error = await failure(path, ["FluxPipeline"]);
    expect(error.message).toContain(path);
    expect(error.message).toContain(words);
    expect(["failed_precondition", "not_found"]).toContain(error.code);
    expect(error.violations.length).toBeGreaterThan(0);
  });

  test("a path that does not exist, and a path to a file", async () => {
    expect((await failure(join(scratch, "nowhere"))).code).toBe("not_found");
    expect((await failure(join(folder(), "model_index.json"))).message).toContain("is a file");
  });

  test("weights of another form, and says which it found", async () => {
    const path = folder({ [WEIGHTS]: undefined, "transformer/pytorch_model.bin": "" });
    expect((await failure(path)).message).toContain("pytorch_model.bin is there");
  });
});
