/**
 * One denoising step per line on stdin, answered by its wall and CPU seconds: the other half of a
 * comparison in which two runtimes take turns on the same machine.
 *
 *   node step-server.ts MODEL SIDE TEXT_LENGTH
 */
import { createInterface } from "node:readline";
import { resolveRequest } from "@fluxline/kernel/image-request.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { openSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import { float32Tensor, type Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { describeModel } from "@fluxline/gpu-node/models/families.ts";

const [folder = "", side = "256", textLength = "128"] = process.argv.slice(2);
const model = describeModel(await openCheckpoint(folder), { runType: "float32" });
const graph = model.graphs.get(model.denoiser[0]!)!;
const session = await openSession(graph, { provider: "cpu", threads: 1 });
const resolution = resolveRequest(
  model.profile,
  { prompt: "", width: +side, height: +side, maxSequenceLength: +textLength },
  1n,
);
if (!resolution.ok) throw new Error(JSON.stringify(resolution.violations));
const plan = model.plan(resolution.request);
const [latents] = plan.initialLatents();
const known: Record<string, Tensor> = { ...plan.sharedInputs(), ...plan.rowInputs(0, latents!) };
const inputs = graph.inputs.map(({ name, dims }) => {
  const filled = dims.map((dim) => (dim === "B" ? 1 : dim === "T" ? +textLength : Number(dim)));
  const count = filled.reduce((product, dim) => product * dim, 1);
  return [name, known[name] ?? float32Tensor(new Float32Array(count).fill(0.1), filled)];
});
const feeds = Object.fromEntries(inputs) as Record<string, Tensor>;

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "") break;
  const cpuBefore = process.cpuUsage();
  const begun = performance.now();
  await session.run(feeds);
  const seconds = (performance.now() - begun) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  console.log(JSON.stringify({ seconds, cpuSeconds: (user + system) / 1e6 }));
}
