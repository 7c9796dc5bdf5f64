/**
 * onnxruntime behind our own types. Only runner processes open sessions: a run blocks the thread
 * that asks for it.
 *
 * Graphs come as bytes whose weights are located below `/` (see onnx/model-encoder.ts). Weights are
 * prepacked, which makes a row's result independent of the batch that it runs in; the
 * determinism promise rests on that, so it is not an option.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError } from "@fluxline/kernel/error.ts";
import { env, InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import type { GraphDefinition } from "../core/image-model.ts";
import type { NamedTensors, Tensor, TensorData, TensorType } from "../core/tensor.ts";

/** onnxruntime's level above errors, which are thrown; otherwise it prints each of them as well. */
const LOG_FATAL = 4;
env.logLevel = "fatal";
/** In the words of its arena, the standard library, a driver, and the libraries of a GPU. */
const OUT_OF_MEMORY =
  /failed to allocate|bad_?\s?alloc|out of memory|allocation failed|alloc_failed/i;

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

export async function openSession(
  graph: GraphDefinition,
  options: SessionOptions,
): Promise<OnnxSession> {
  try {
    const session = await InferenceSession.create(graph.onnx, sessionOptions(options));
    return new Session(graph, session);
  } catch (cause) {
    throw openError(graph.name, options.provider, cause);
  }
}

function sessionOptions({ provider, threads }: SessionOptions): InferenceSession.SessionOptions {
  return {
    executionProviders: [provider],
    intraOpNumThreads: threads,
    logSeverityLevel: LOG_FATAL,
    // From the second run of a shape on it would hold one block for all tensors beside what the first
    // run left behind: twice the working memory, and no faster (measured, docs/sizing.md).
    enableMemPattern: false,
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
  readonly #graph: GraphDefinition;
  readonly #session: InferenceSession;

  constructor(graph: GraphDefinition, session: InferenceSession) {
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
        const message = `${this.#graph.name}: input ${name} ${found} (given: ${names})`;
        throw new AppError("internal", message);
      }
      feeds[name] = runtimeTensor(given);
    }
    return feeds;
  }

  #result(name: string, value: OrtTensor | undefined): Tensor {
    assert(value !== undefined, `${this.#graph.name} gave no output ${name}`);
    // Only these types stand at a graph's edge: models/graph.ts.
    const type = value.type as TensorType;
    const data = value.data as TensorData;
    if (type !== "float16") return { type, dims: value.dims, data };
    // Where the language has a Float16Array, the runtime gives one; we carry the bits.
    const bits = new Uint16Array(data.buffer, data.byteOffset, data.length);
    return { type, dims: value.dims, data: bits };
  }
}

/**
 * The runtime's class turns the bits of a float16 tensor into the language's Float16Array, which
 * its native half cannot read (1.30: "not enough space"); given as uint16 and renamed, it reads
 * them.
 */
function runtimeTensor({ type, data, dims }: Tensor): OrtTensor {
  if (type !== "float16") return new OrtTensor(type, data, dims);
  const bits = new OrtTensor("uint16", data, dims);
  Object.defineProperty(bits, "type", { value: "float16" });
  return bits;
}

export function isOutOfMemory(message: string): boolean {
  return OUT_OF_MEMORY.test(message);
}

/** The runtime tells its failures apart by text only; it is read here and nowhere else. */
function openError(graph: string, provider: ProviderName, cause: unknown): AppError {
  const why = `${graph} on ${provider}: ${firstLine(cause)}`;
  const details = { graph, provider };
  if (isOutOfMemory(why)) {
    const reason = "DEVICE_OUT_OF_MEMORY";
    return new AppError("resource_exhausted", why, { reason, details, cause });
  }
  if (/Could not find an implementation/.test(why)) {
    const reason = "RUN_TYPE_NOT_SUPPORTED";
    const message = `${why}; choose another run type or provider`;
    return new AppError("unimplemented", message, { reason, details, cause });
  }
  const reason = "GRAPH_NOT_LOADED";
  return new AppError("failed_precondition", why, { reason, details, cause });
}

function runError(graph: string, cause: unknown): AppError {
  const why = `${graph}: ${firstLine(cause)}`;
  const details = { graph };
  if (isOutOfMemory(why)) {
    const reason = "DEVICE_OUT_OF_MEMORY";
    return new AppError("resource_exhausted", why, { reason, details, cause });
  }
  return new AppError("internal", why, { reason: "GRAPH_FAILED", details, cause });
}

function firstLine(thrown: unknown): string {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return message.split("\n", 1)[0] ?? message;
}
