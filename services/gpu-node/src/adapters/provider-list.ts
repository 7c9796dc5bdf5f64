/** What this machine really has: each execution provider is asked to run a small graph. */
import { availableParallelism, cpus } from "node:os";
import { toAppError } from "@fluxline/kernel/error.ts";
import { listSupportedBackends } from "onnxruntime-node";
import type { Graph } from "../core/image-model.ts";
import { float32Tensor } from "../core/tensor.ts";
import { toGraph } from "../models/graph.ts";
import { GraphBuilder } from "../onnx/graph-builder.ts";
import { openSession, PROVIDER_NAMES, type ProviderName } from "./onnx-session.ts";

export interface ProviderStatus {
  readonly name: ProviderName;
  readonly available: boolean;
  /** What it is, or why it is not available and what it would need. */
  readonly detail: string;
}

/** What a provider needs that onnxruntime's npm package does not bring along. */
const NEEDS: Readonly<Record<ProviderName, string>> = {
  cpu: "nothing",
  cuda:
    "an NVIDIA GPU, CUDA 13 with cuDNN 9 on the library path, and onnxruntime's CUDA provider " +
    "(libonnxruntime_providers_cuda.so and _shared.so) beside its main library",
  tensorrt: "what cuda needs, TensorRT, and libonnxruntime_providers_tensorrt.so",
  webgpu: "a GPU with a Vulkan driver (libvulkan.so.1)",
};

/** Every provider that we know, in the order of `PROVIDER_NAMES`. */
export async function listProviders(): Promise<readonly ProviderStatus[]> {
  const builtIn = new Set(listSupportedBackends().map(({ name }) => name));
  const statuses: ProviderStatus[] = [];
  for (const name of PROVIDER_NAMES) {
    const missing = { name, available: false, detail: "not in this build of onnxruntime" };
    statuses.push(builtIn.has(name) ? await probe(name) : missing);
  }
  return statuses;
}

async function probe(name: ProviderName): Promise<ProviderStatus> {
  try {
    const session = await openSession(probeGraph(), { provider: name, threads: 1 });
    const one = float32Tensor(Float32Array.of(1), [1]);
    const { sum } = await session.run({ value: one });
    await session.close();
    if (sum?.data[0] === 2) return { name, available: true, detail: describe(name) };
    return { name, available: false, detail: `it computes 1 + 1 = ${String(sum?.data[0])}` };
  } catch (thrown) {
    const { message } = toAppError(thrown);
    // What follows the last of the runtime's source positions is meant for people.
    const why = message.split(/ was false\. |: /).at(-1);
    return { name, available: false, detail: `${why}; it needs ${NEEDS[name]}` };
  }
}

function describe(name: ProviderName): string {
  if (name !== "cpu") return "ran a test graph";
  return `${cpus()[0]?.model ?? "unknown model"}, ${availableParallelism()} cores`;
}

function probeGraph(): Graph {
  const build = new GraphBuilder("probe");
  build.node("sum", "Add", [build.input("value", "float32", [1]), "value"]);
  build.output("sum", "float32", [1]);
  return toGraph(build.graph);
}
