/**
 * onnxruntime behind our own types. Only runner processes open sessions: a run blocks the thread
 * that asks for it.
 *
 * Graphs come as bytes whose weights are located below `/` (see onnx/model-encoder.ts). Weights are
 * prepacked, which makes a row's result independent of the batch that it runs in; the
 * determinism promise rests on that, so it is not an option.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import { InferenceSession, listSupportedBackends, Tensor as OrtTensor } from "onnxruntime-node";
import type { Graph } from "../core/image-model.ts";
import {
  float32Tensor,
  type NamedTensors,
  type Tensor,
  type TensorData,
  type TensorType,
} from "../core/tensor.ts";
import { toGraph } from "../models/graph.ts";
import { GraphBuilder } from "../onnx/graph-builder.ts";

/** onnxruntime's level for errors; warnings about what it cannot fuse are of no use to anyone. */
const LOG_ERRORS = 3;
const NOT_BUILT_IN = "this build of onnxruntime does not have it";

export const PROVIDER_NAMES = ["cpu", "cuda", "tensorrt", "webgpu"] as const;
export type ProviderName = (typeof PROVIDER_NAMES)[number];

export interface SessionOptions {
  readonly provider: ProviderName;
  /** Threads for one operator; 0 lets the runtime take all cores. */
  readonly threads: number;
}

export interface OnnxSession {
  /** Outputs by name; all of them when none are asked for. Blocks this thread while it computes. */
  run(inputs: NamedTensors, outputs?: readonly string[]): Promise<NamedTensors>;
  close(): Promise<void>;
}

export async function openSession(graph: Graph, options: SessionOptions): Promise<OnnxSession> {
  try {
    const session = await InferenceSession.create(graph.onnx, sessionOptions(options));
    return new Session(graph, session);
  } catch (cause) {
    const why = firstLine(cause);
    throw new AppError("failed_precondition", `${graph.name} on ${options.provider}: ${why}`, {
      reason: "GRAPH_NOT_LOADED",
      details: { graph: graph.name, provider: options.provider },
      cause,
    });
  }
}

function sessionOptions({ provider, threads }: SessionOptions): InferenceSession.SessionOptions {
  return {
    executionProviders: [provider],
    intraOpNumThreads: threads,
    logSeverityLevel: LOG_ERRORS,
    extra: {
      session: {
        model_external_initializers_file_folder_path: "/",
        // Threads that spin while they wait for work starve the neighbours on a shared machine.
        "intra_op.allow_spinning": "0",
      },
    },
  };
}

class Session implements OnnxSession {
  readonly #graph: Graph;
  readonly #session: InferenceSession;

  constructor(graph: Graph, session: InferenceSession) {
    this.#graph = graph;
    this.#session = session;
  }

  async run(inputs: NamedTensors, outputs?: readonly string[]): Promise<NamedTensors> {
    const feeds = this.#feeds(inputs);
    const fetches = outputs ?? this.#graph.outputs.map(({ name }) => name);
    try {
      const results = await this.#session.run(feeds, [...fetches]);
      return Object.fromEntries(fetches.map((name) => [name, this.#result(name, results[name])]));
    } catch (cause) {
      throw runError(this.#graph.name, cause);
    }
  }

  async close(): Promise<void> {
    await this.#session.release();
  }

  #feeds(inputs: NamedTensors): Record<string, OrtTensor> {
    const feeds: Record<string, OrtTensor> = {};
    for (const { name, type } of this.#graph.inputs) {
      const given = inputs[name];
      if (given === undefined || given.type !== type) {
        const found = given === undefined ? "is missing" : `is ${given.type}, not ${type}`;
        const names = Object.keys(inputs).join(", ");
        throw new AppError("internal", `${this.#graph.name}: input ${name} ${found} (${names})`);
      }
      feeds[name] = new OrtTensor(type, given.data, given.dims);
    }
    return feeds;
  }

  #result(name: string, value: OrtTensor | undefined): Tensor {
    assert(value !== undefined, `${this.#graph.name} gave no output ${name}`);
    // Only these types stand at a graph's edge: models/graph.ts.
    const type = value.type as TensorType;
    return { type, dims: value.dims, data: value.data as TensorData };
  }
}

/** The runtime tells its failures apart by text only; this is the one place that reads it. */
function runError(graph: string, cause: unknown): AppError {
  const why = firstLine(cause);
  const details = { graph };
  if (/alloc|out of memory|OOM/i.test(why)) {
    const reason = "DEVICE_OUT_OF_MEMORY";
    return new AppError("resource_exhausted", `${graph}: ${why}`, { reason, details, cause });
  }
  return new AppError("internal", `${graph}: ${why}`, { reason: "GRAPH_FAILED", details, cause });
}

function firstLine(thrown: unknown): string {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return message.split("\n", 1)[0] ?? message;
}

export interface ProviderStatus {
  readonly name: ProviderName;
  readonly available: boolean;
  /** Why it is not, or what it is. */
  readonly detail: string;
}

/**
 * What this machine really has: each provider that the installed runtime knows is asked to load a
 * graph of one addition.
 */
export async function listProviders(): Promise<readonly ProviderStatus[]> {
  const known = new Set(listSupportedBackends().map(({ name }) => name));
  const statuses: ProviderStatus[] = [];
  for (const name of PROVIDER_NAMES) {
    statuses.push(
      known.has(name) ? await probe(name) : { name, available: false, detail: NOT_BUILT_IN },
    );
  }
  return statuses;
}

async function probe(name: ProviderName): Promise<ProviderStatus> {
  try {
    const session = await openSession(probeGraph(), { provider: name, threads: 1 });
    const one = float32Tensor(Float32Array.of(1), [1]);
    const { sum } = await session.run({ value: one });
    await session.close();
    if (sum?.data[0] === 2) return { name, available: true, detail: "ran a test graph" };
    return { name, available: false, detail: `1 + 1 gave ${String(sum?.data[0])}` };
  } catch (thrown) {
    return { name, available: false, detail: toAppError(thrown).message };
  }
}

function probeGraph(): Graph {
  const build = new GraphBuilder("probe");
  build.node("sum", "Add", [build.input("value", "float32", [1]), "value"]);
  build.output("sum", "float32", [1]);
  return toGraph(build.graph);
}
