/**
 * The least that must be done for a picture: onnxruntime sessions, and a loop around them. A
 * process of its own, so that its CPU time can be read off. One image for each line on stdin,
 * answered by a line of JSON.
 *
 *   node bare-loop.ts MODEL WIDTH HEIGHT STEPS TEXT_LENGTH IMAGES THREADS
 */
import { createInterface } from "node:readline";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { resolveRequest } from "@fluxline/kernel/image-request.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import type { Graph } from "@fluxline/gpu-node/core/image-model.ts";
import type { NamedTensors, Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { describeModel } from "@fluxline/gpu-node/models/families.ts";

const [folder = "", ...numbers] = process.argv.slice(2);
const [width = 256, height = 256, steps = 20, textLength = 128, images = 1, threads = 1] =
  numbers.map(Number);

const model = describeModel(await openCheckpoint(folder), { runType: "float32" });
const sessions = new Map<string, InferenceSession>();
for (const graph of model.graphs.values()) sessions.set(graph.name, await open(graph));

function open(graph: Graph): Promise<InferenceSession> {
  return InferenceSession.create(graph.onnx, {
    executionProviders: ["cpu"],
    intraOpNumThreads: threads,
    logSeverityLevel: 3,
    extra: {
      session: {
        model_external_initializers_file_folder_path: "/",
        "intra_op.allow_spinning": "0",
      },
    },
  });
}

async function run(graph: string, inputs: NamedTensors): Promise<Record<string, Tensor>> {
  const feeds = Object.fromEntries(
    Object.entries(inputs).map(([name, { type, data, dims }]) => [
      name,
      new OrtTensor(type, data, dims),
    ]),
  );
  return (await sessions.get(graph)!.run(feeds)) as unknown as Record<string, Tensor>;
}

const turns = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
for (let image = 0; image < images; image++) {
  if ((await turns.next()).done === true) break;
  const begun = performance.now();
  const resolution = resolveRequest(
    model.profile,
    { prompt: "a photo of a red cat", width, height, steps, maxSequenceLength: textLength },
    BigInt(image),
  );
  if (!resolution.ok) throw new Error(JSON.stringify(resolution.violations));
  const plan = model.plan(resolution.request);
  const conditioning: Record<string, Tensor> = { ...plan.sharedInputs() };
  for (const { graph, inputs, outputs } of plan.encodings.positive.runs) {
    const results = await run(graph, inputs);
    for (const [output, name] of Object.entries(outputs)) conditioning[name] = results[output]!;
  }
  let [latents] = plan.initialLatents();
  for (let step = 0; step < steps; step++) {
    const inputs = { ...conditioning, ...plan.rowInputs(step, latents!) };
    const results = await run(model.denoiser[0]!, inputs);
    const positive = results[model.prediction]!.data as Float32Array;
    latents = plan.advance(step, latents!, { positive });
  }
  const decoded = await run(model.decoder, plan.decodeInputs(latents!));
  plan.pixels(decoded[model.decoded]!);
  const seconds = (performance.now() - begun) / 1000;
  const { user, system } = process.cpuUsage();
  console.log(JSON.stringify({ image, seconds, cpuSeconds: (user + system) / 1e6 }));
}
