/**
 * The least that must be done for pictures: onnxruntime sessions, and a loop around them. A process
 * of its own, so that its CPU time can be read off; `BareLoop` of bare-process.ts is its other end.
 * One batch of images for each line on stdin, answered by a line of JSON.
 *
 *   node bare-loop.ts MODEL WIDTH HEIGHT STEPS TEXT_LENGTH BATCH THREADS
 */
import { createInterface } from "node:readline";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { resolveRequest } from "@fluxline/kernel/image-request.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import type { Graph, ImagePlan } from "@fluxline/gpu-node/core/image-model.ts";
import { float32Tensor, type NamedTensors, type Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { describeModel } from "@fluxline/gpu-node/models/families.ts";

const [folder = "", ...numbers] = process.argv.slice(2);
const [width = 256, height = 256, steps = 20, textLength = 128, batch = 1, threads = 1] =
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

interface Row {
  readonly plan: ImagePlan;
  readonly conditioning: NamedTensors;
  latents: Float32Array;
}

async function begin(image: number): Promise<Row> {
  const resolution = resolveRequest(
    model.profile,
    { prompt: `a photo of cat ${image}`, width, height, steps, maxSequenceLength: textLength },
    BigInt(image),
  );
  if (!resolution.ok) throw new Error(JSON.stringify(resolution.violations));
  const plan = model.plan(resolution.request);
  const conditioning: Record<string, Tensor> = {};
  for (const { graph, inputs, outputs } of plan.encodings.positive.runs) {
    const results = await run(graph, inputs);
    for (const [output, name] of Object.entries(outputs)) conditioning[name] = results[output]!;
  }
  const [latents] = plan.initialLatents();
  return { plan, conditioning, latents: latents! };
}

/** Rows laid behind one another; a single one is taken as it is. */
function stacked(parts: readonly NamedTensors[]): NamedTensors {
  const [first] = parts;
  if (parts.length === 1) return first!;
  const names = Object.keys(first!);
  return Object.fromEntries(
    names.map((name) => {
      const rows = parts.map((part) => part[name]!);
      const { dims, data } = rows[0]!;
      const all = new Float32Array(data.length * rows.length);
      rows.forEach((row, index) => all.set(row.data as Float32Array, index * data.length));
      return [name, float32Tensor(all, [rows.length, ...dims.slice(1)])];
    }),
  );
}

async function draw(first: number): Promise<void> {
  const rows: Row[] = [];
  for (let row = 0; row < batch; row++) rows.push(await begin(first + row));
  const shared = rows[0]!.plan.sharedInputs();
  const conditioning = stacked(rows.map((row) => row.conditioning));
  for (let step = 0; step < steps; step++) {
    const own = stacked(rows.map(({ plan, latents }) => plan.rowInputs(step, latents)));
    const results = await run(model.denoiser[0]!, { ...shared, ...conditioning, ...own });
    const all = results[model.prediction]!.data as Float32Array;
    const size = all.length / batch;
    rows.forEach((row, index) => {
      const positive = all.subarray(index * size, (index + 1) * size);
      row.latents = row.plan.advance(step, row.latents, { positive });
    });
  }
  for (const { plan, latents } of rows) {
    const decoded = await run(model.decoder, plan.decodeInputs(latents));
    plan.pixels(decoded[model.decoded]!);
  }
}

let image = 0;
console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "") break;
  const begun = performance.now();
  const cpuBefore = process.cpuUsage();
  await draw(image);
  image += batch;
  const { user, system } = process.cpuUsage(cpuBefore);
  const seconds = (performance.now() - begun) / 1000;
  console.log(JSON.stringify({ seconds, cpuSeconds: (user + system) / 1e6 }));
}
