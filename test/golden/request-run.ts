/**
 * A whole request in this process: the family's plan, its graphs on the CPU provider, one row at a
 * time. What driver and runner do beyond this (batches, stages, other processes) must not change a
 * bit, and is tested elsewhere.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { type ImageRequest, resolveRequest } from "@fluxline/kernel/image-request.ts";
import { openSession, type OnnxSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { textFile } from "@fluxline/gpu-node/core/checkpoint.ts";
import type {
  ImageModel,
  ImagePlan,
  Pixels,
  TextEncoding,
} from "@fluxline/gpu-node/core/image-model.ts";
import type { NamedTensors } from "@fluxline/gpu-node/core/tensor.ts";
import { describeFlux1 } from "@fluxline/gpu-node/models/flux1.ts";
import type { PipelineArguments } from "./golden-data.ts";
import { CPU, goldenCheckpoint } from "./network-run.ts";

export interface GoldenModel {
  readonly model: ImageModel;
  readonly sessions: ReadonlyMap<string, OnnxSession>;
  close(): Promise<void>;
}

export interface Generated {
  readonly texts: { readonly positive: NamedTensors; readonly negative?: NamedTensors };
  /** One of each per image. */
  readonly latents: readonly Float32Array[];
  readonly pixels: readonly Pixels[];
}

/** `scheduler` overrides keys of scheduler_config.json, to make a mistake on purpose. */
export async function openModel(
  name: string,
  scheduler: Readonly<Record<string, unknown>> = {},
): Promise<GoldenModel> {
  const checkpoint = await goldenCheckpoint(name);
  const path = "scheduler/scheduler_config.json";
  const config: unknown = { ...JSON.parse(textFile(checkpoint, path)), ...scheduler };
  const texts = new Map([...checkpoint.texts, [path, JSON.stringify(config)]]);
  const model = describeFlux1({ ...checkpoint, texts }, { runType: "float32" });
  const sessions = new Map<string, OnnxSession>();
  for (const [name, graph] of model.graphs) sessions.set(name, await openSession(graph, CPU));
  const close = async (): Promise<void> => {
    for (const session of sessions.values()) await session.close();
  };
  return { model, sessions, close };
}

export function toRequest(model: ImageModel, golden: PipelineArguments): ImageRequest {
  const resolution = resolveRequest(
    model.profile,
    {
      prompt: golden.prompt,
      prompt2: golden.prompt_2,
      negativePrompt: golden.negative_prompt,
      negativePrompt2: golden.negative_prompt_2,
      trueCfgScale: golden.true_cfg_scale,
      width: golden.width,
      height: golden.height,
      steps: golden.num_inference_steps,
      guidance: golden.guidance_scale,
      seed: BigInt(golden.seed),
      maxSequenceLength: golden.max_sequence_length,
      imageCount: golden.num_images_per_prompt,
    },
    0n,
  );
  if (resolution.ok) return resolution.request;
  throw new Error(`refused: ${JSON.stringify(resolution.violations)}`);
}

export async function generate(opened: GoldenModel, request: ImageRequest): Promise<Generated> {
  const plan = opened.model.plan(request);
  const { positive, negative } = plan.encodings;
  const texts = {
    positive: await encode(opened, positive),
    ...(negative === undefined ? {} : { negative: await encode(opened, negative) }),
  };
  const latents: Float32Array[] = [];
  const pixels: Pixels[] = [];
  for (const noise of plan.initialLatents()) {
    const last = await denoise(opened, plan, texts, noise);
    const decoded = await run(opened, opened.model.decoder, plan.decodeInputs(last));
    latents.push(last);
    pixels.push(plan.pixels(decoded[opened.model.decoded]!));
  }
  return { texts, latents, pixels };
}

async function denoise(
  opened: GoldenModel,
  plan: ImagePlan,
  texts: Generated["texts"],
  noise: Float32Array,
): Promise<Float32Array> {
  const shared = plan.sharedInputs();
  let latents = noise;
  for (let step = 0; step < plan.steps; step++) {
    const row = { ...shared, ...plan.rowInputs(step, latents) };
    const positive = await predict(opened, { ...row, ...texts.positive });
    const predictions =
      texts.negative === undefined
        ? { positive }
        : { positive, negative: await predict(opened, { ...row, ...texts.negative }) };
    latents = plan.advance(step, latents, predictions);
  }
  return latents;
}

async function predict(opened: GoldenModel, inputs: NamedTensors): Promise<Float32Array> {
  let values = inputs;
  for (const stage of opened.model.denoiser) {
    values = { ...values, ...(await run(opened, stage, values)) };
  }
  return values[opened.model.prediction]!.data as Float32Array;
}

async function encode(opened: GoldenModel, { runs }: TextEncoding): Promise<NamedTensors> {
  const conditioning: Record<string, NamedTensors[string]> = {};
  for (const { graph, inputs, outputs } of runs) {
    const results = await run(opened, graph, inputs);
    for (const [from, to] of Object.entries(outputs)) conditioning[to] = results[from]!;
  }
  return conditioning;
}

function run(opened: GoldenModel, graph: string, inputs: NamedTensors): Promise<NamedTensors> {
  const session = opened.sessions.get(graph);
  assert(session !== undefined, `no session for ${graph}`);
  return session.run(inputs);
}
