/**
 * The family around its networks: profile, plans, refusals. That pictures are diffusers' is tested
 * in test/golden.
 */
import { fileURLToPath } from "node:url";
import { AppError } from "@fluxline/kernel/error.ts";
import { type RequestedImage, resolveRequest } from "@fluxline/kernel/image-request.ts";
import { beforeAll, describe, expect, test } from "vitest";
import { openCheckpoint } from "../adapters/checkpoint-folder.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type { ImageModel, ImagePlan } from "../core/image-model.ts";
import { packLatents } from "../core/latents.ts";
import { JsonConfig, type JsonObject } from "../core/json-config.ts";
import { TorchGenerator } from "../core/noise.ts";
import { describeFlux1 } from "./flux1.ts";
import { readFlux1Parts } from "./flux1-parts.ts";
import { FLUX1_LIMITS, flux1Profile } from "./flux1-profile.ts";

const GOLDEN = fileURLToPath(new URL("../../../../test/golden/data/checkpoints/", import.meta.url));

let dev: Checkpoint;
let model: ImageModel;

beforeAll(async () => {
  dev = await openCheckpoint(`${GOLDEN}dev-like`);
  model = describeFlux1(dev, { runType: "float32" });
});

function plan(requested: Partial<RequestedImage> = {}): ImagePlan {
  const defaults = { prompt: "a red fox", width: 48, height: 32, steps: 3, maxSequenceLength: 16 };
  const resolution = resolveRequest(model.profile, { ...defaults, ...requested }, 7n);
  if (resolution.ok) return model.plan(resolution.request);
  throw new Error(JSON.stringify(resolution.violations));
}

describe("the profile", () => {
  test("of a small model with guidance", () => {
    expect(model.profile).toEqual({
      ...FLUX1_LIMITS,
      memory: [],
      family: "flux1",
      name: "dev-like",
      digest: dev.digest,
      sizeMultiple: 16,
      minSize: 16,
      defaultWidth: 64,
      defaultHeight: 64,
      minSteps: 1,
      defaultSteps: 28,
      guidanceEmbedded: true,
      defaultGuidance: 3.5,
      maxGuidance: 100,
      defaultMaxSequenceLength: 512,
      advice: {},
    });
  });

  test("of a model without guidance", async () => {
    const schnell = await openCheckpoint(`${GOLDEN}schnell-like`);
    expect(describeFlux1(schnell, { runType: "float32" }).profile).toMatchObject({
      defaultSteps: 4,
      guidanceEmbedded: false,
    });
  });

  test("of an autoencoder with two levels and a tokenizer for 64 tokens", async () => {
    const odd = await openCheckpoint(`${GOLDEN}odd-like`);
    expect(describeFlux1(odd, { runType: "float32" }).profile).toMatchObject({
      sizeMultiple: 4,
      minSize: 4,
      defaultWidth: 64,
      defaultMaxSequenceLength: 64,
    });
  });

  test("of a model as wide as FLUX.1-dev has its advice, and its size", () => {
    const parts = readFlux1Parts(withConfig("vae", { sample_size: 1024 }));
    const transformer = { ...parts.transformer, width: 3072 };
    const profile = flux1Profile(dev, { ...parts, transformer }, "float32", FLUX1_LIMITS);
    expect(profile.defaultWidth).toBe(1024);
    expect(profile.advice).toEqual({
      guidanceLow: 3,
      guidanceHigh: 7,
      stepsLow: 30,
      stepsHigh: 70,
      sizeLow: 768,
      promptWordsLow: 4,
    });
  });

  test("takes the operator's limits, and float16's", () => {
    const limits = { maxSequenceLengthMax: 256, maxSize: 32 };
    const { profile } = describeFlux1(dev, { runType: "float16", limits });
    expect(profile).toMatchObject({ ...limits, defaultMaxSequenceLength: 256, maxGuidance: 65 });
    expect(profile.defaultWidth).toBe(32);
  });
});

describe("a plan", () => {
  test("names shapes that can share a batch", () => {
    expect(plan().latentDims).toEqual([6, 64]);
    expect(plan({ steps: 9, guidance: 1, seed: 4n, prompt: "x" }).shapeKey).toBe(plan().shapeKey);
    for (const other of [{ width: 32 }, { width: 32, height: 48 }, { maxSequenceLength: 17 }]) {
      expect(plan(other).shapeKey).not.toBe(plan().shapeKey);
    }
  });

  test("encodes a text once: equal keys for equal ids, other keys for other ids or lengths", () => {
    const key = (requested: Partial<RequestedImage>) => plan(requested).encodings.positive.key;
    expect(key({ seed: 9n, steps: 1, width: 16 })).toBe(key({}));
    expect(key({ prompt2: "a red fox" })).toBe(key({}));
    const others = [{ prompt: "a fox" }, { prompt2: "a fox" }, { maxSequenceLength: 17 }];
    expect(new Set(others.map(key)).add(key({})).size).toBe(4);
  });

  test("gives the prompt to CLIP and the second prompt to T5", () => {
    const [clip, t5] = plan({ prompt2: "a red circle" }).encodings.positive.runs;
    expect(clip).toMatchObject({
      graph: "text_encoder",
      inputs: { input_ids: { type: "int64", dims: [1, 77] } },
      outputs: { pooled_output: "pooled_projections" },
    });
    expect(t5).toMatchObject({
      graph: "text_encoder_2",
      inputs: { input_ids: { type: "int64", dims: [1, 16] } },
      outputs: { last_hidden_state: "encoder_hidden_states" },
    });
  });

  const passes: Record<string, [requested: Partial<RequestedImage>, both: boolean]> = {
    "true guidance": [{ trueCfgScale: 2, negativePrompt: "blurry" }, true],
    "true guidance with an empty negative prompt": [{ trueCfgScale: 2, negativePrompt: "" }, true],
    "true guidance of 1": [{ trueCfgScale: 1, negativePrompt: "blurry" }, false],
    "true guidance without a negative prompt": [{ trueCfgScale: 2 }, false],
    "a second negative prompt alone": [{ trueCfgScale: 2, negativePrompt2: "x" }, false],
  };
  for (const [name, [requested, both]] of Object.entries(passes)) {
    test(`has ${both ? "two passes" : "one pass"} with ${name}`, () => {
      expect(plan(requested).encodings.negative !== undefined).toBe(both);
    });
  }

  test("lets an empty second negative prompt fall back to the first", () => {
    const key = (negativePrompt2?: string) =>
      plan({ trueCfgScale: 2, negativePrompt: "blurry", negativePrompt2 }).encodings.negative?.key;
    expect(key("")).toBe(key());
    expect(key("dark")).not.toBe(key());
  });

  test("draws the noise of all images as torch draws it at once, from one generator", () => {
    const noise = new TorchGenerator(5n).normal(2 * 16 * 4 * 6);
    const size = { channels: 16, height: 4, width: 6 };
    const images = [noise.subarray(0, 384), noise.subarray(384)];
    expect([...plan({ seed: 5n, imageCount: 2 }).initialLatents()]).toEqual(
      images.map((image) => packLatents(image, size)),
    );
  });

  test.each<[string, Partial<RequestedImage>]>([
    ["", {}],
    [" with true guidance", { negativePrompt: "a dog", trueCfgScale: 3 }],
  ])("sees the end from every step while the velocity stays the same%s", (_, asked) => {
    const straight = plan({ ...asked, steps: 5 });
    let latents = [...straight.initialLatents()][0]!;
    const negative = asked.trueCfgScale === undefined ? {} : { negative: latents.map(Math.cos) };
    const predictions = { positive: latents.map(Math.sin), ...negative };
    const estimates: Float32Array[] = [];
    for (let step = 0; step < 5; step++) {
      estimates.push(straight.estimate(step, latents, predictions));
      latents = straight.advance(step, latents, predictions);
    }
    expect(estimates.at(-1)).toEqual(latents);
    for (const estimate of estimates) {
      estimate.forEach((value, i) => expect(value).toBeCloseTo(latents[i]!, 5));
    }
  });

  test("shows the decoder the same cells as its latents do", () => {
    const { cells, decodeInputs, initialLatents } = plan();
    const latents = [...initialLatents()][0]!;
    const { channels, height, width } = cells(latents);
    expect([channels, height, width]).toEqual([model.cellChannels, 4, 6]);
    expect(model.decodeCells(cells(latents))).toEqual(decodeInputs(latents));
  });

  test("gives the rows exactly the inputs of the denoiser's graph", () => {
    const one = plan();
    const [latents] = one.initialLatents();
    const conditioning = one.encodings.positive.runs.flatMap((run) => Object.values(run.outputs));
    const given = { ...one.rowInputs(0, latents!), ...one.sharedInputs() };
    const names = [...Object.keys(given), ...conditioning].sort();
    const { inputs } = model.graphs.get("transformer")!;
    expect(names).toEqual(inputs.map(({ name }) => name).sort());
    expect(given["rope_cos"]?.dims).toEqual([16 + 6, 16]);
  });

  test("tells stages that begin among the single blocks how long the text is", () => {
    const stages = [
      { first: 0, end: 3 },
      { first: 3, end: 5 },
    ];
    const staged = describeFlux1(dev, { runType: "float32", stages });
    expect(staged.denoiser).toHaveLength(2);
    expect(staged.plan(plan().request).sharedInputs()["text_length"]).toEqual({
      type: "int64",
      dims: [1],
      data: BigInt64Array.of(16n),
    });
    expect(plan().sharedInputs()).not.toHaveProperty("text_length");
  });

  test("says which words were cut, and from what", () => {
    const words = "a ".repeat(90);
    const requested = { prompt: words, trueCfgScale: 2, negativePrompt: `${words} Quiet Fox` };
    const { advisories } = plan(requested);
    expect(advisories.map(({ reason, field }) => [reason, field])).toEqual([
      ["CLIP_TEXT_CUT", "prompt"],
      ["T5_TEXT_CUT", "prompt"],
      ["CLIP_TEXT_CUT", "negative_prompt"],
      ["T5_TEXT_CUT", "negative_prompt"],
    ]);
    expect(advisories[2]?.message).toContain('a a a  Quiet Fox"');
    expect(plan().advisories).toEqual([]);
  });

  test("refuses a prompt that names a token which the encoder does not know", () => {
    const changes = { extra_ids: 5000, additional_special_tokens: undefined };
    const { texts } = withText("tokenizer_2/tokenizer_config.json", changes);
    const bare = new Map([...texts].filter(([path]) => !path.endsWith("special_tokens_map.json")));
    const sentinels = describeFlux1({ ...dev, texts: bare }, { runType: "float32" });
    const request = { ...plan().request, prompt2: "a <extra_id_4999>" };
    const { violations } = thrownBy(() => sentinels.plan(request));
    expect(violations[0]?.field).toBe("prompt_2");
    expect(violations[0]?.description).toContain("<extra_id_4999>");
  });
});

/** The checkpoint with some keys of one network's config changed. */
function withConfig(part: string, changes: JsonObject): Checkpoint {
  const text = dev.texts.get(`${part}/config.json`)!;
  const values = { ...(JSON.parse(text) as JsonObject), ...changes };
  const config = new JsonConfig(`${part}/config.json`, values);
  const changed = { ...dev.components.get(part)!, config };
  return { ...dev, components: new Map(dev.components).set(part, changed) };
}

function withText(path: string, changes: JsonObject): Checkpoint {
  const values = { ...(JSON.parse(dev.texts.get(path)!) as JsonObject), ...changes };
  return { ...dev, texts: new Map(dev.texts).set(path, JSON.stringify(values)) };
}

function thrownBy(action: () => unknown): AppError {
  try {
    action();
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("refuses a checkpoint, by file and key,", () => {
  const cases: Record<string, [make: () => Checkpoint, field: string]> = {
    "of another pipeline": [
      () => withText("model_index.json", { _class_name: "StableDiffusionPipeline" }),
      "model_index.json: _class_name",
    ],
    "of another scheduler": [
      () => withText("scheduler/scheduler_config.json", { _class_name: "DDIMScheduler" }),
      "scheduler/scheduler_config.json: _class_name",
    ],
    "whose text is wider than the transformer takes": [
      () => withConfig("text_encoder_2", { d_model: 48 }),
      "transformer/config.json: joint_attention_dim",
    ],
    "whose pooled text is wider than the transformer takes": [
      () => withConfig("text_encoder", { hidden_size: 64 }),
      "transformer/config.json: pooled_projection_dim",
    ],
    "whose latents are not the transformer's": [
      () => withConfig("vae", { latent_channels: 8 }),
      "transformer/config.json: out_channels",
    ],
    "that needs a picture as input": [
      () => withConfig("transformer", { in_channels: 384, out_channels: 64 }),
      "transformer/config.json: in_channels",
    ],
    "that makes pictures in four channels": [
      () => withConfig("vae", { out_channels: 4 }),
      "vae/config.json: out_channels",
    ],
    "whose CLIP is shorter than its tokenizer": [
      () => withConfig("text_encoder", { max_position_embeddings: 50 }),
      "text_encoder/config.json: max_position_embeddings",
    ],
    "whose CLIP does not know its end token": [
      () => withConfig("text_encoder", { vocab_size: 663 }),
      "text_encoder/config.json: vocab_size",
    ],
  };
  for (const [name, [make, field]] of Object.entries(cases)) {
    test(name, () => {
      const { code, violations } = thrownBy(() => describeFlux1(make(), { runType: "float32" }));
      expect(code).toBe("failed_precondition");
      expect(violations[0]?.field.endsWith(field), violations[0]?.field).toBe(true);
    });
  }
});
