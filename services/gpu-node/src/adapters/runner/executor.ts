/**
 * The runner's side of the protocol: sessions by graph name, tensors retained by key, one request
 * after another. A request that fails is answered with its reason and leaves the rest as it was.
 */
import { AppError, toErrorRecord } from "@fluxline/kernel/error.ts";
import { unreachable } from "@fluxline/kernel/assert.ts";
import {
  elementCount,
  type NamedTensors,
  type Tensor,
  type TensorData,
} from "../../core/tensor.ts";
import type { DeviceBackend } from "./backend.ts";
import type { Frame } from "../frame.ts";
import { GraphSessions } from "./graph-sessions.ts";
import {
  type DriverMessage,
  type PartHeader,
  PayloadWriter,
  type RunnerMessage,
  type TensorHeader,
  tensorFrom,
  tensorsFrom,
} from "./message.ts";

export type Send = (message: RunnerMessage, parts: readonly Uint8Array[]) => void;

export class RunnerExecutor {
  readonly #backend: DeviceBackend;
  readonly #send: Send;
  readonly #sessions: GraphSessions;
  /** Its size is the driver's to bound: adapters/retained-cache.ts. */
  readonly #retained = new Map<string, NamedTensors>();

  constructor(backend: DeviceBackend, send: Send) {
    this.#backend = backend;
    this.#sessions = new GraphSessions(backend);
    this.#send = send;
  }

  greet(): void {
    const { device, simulated } = this.#backend;
    this.#send({ kind: "ready", device, simulated }, []);
  }

  async handle(frame: Frame): Promise<void> {
    const message = frame.header as DriverMessage;
    switch (message.kind) {
      case "load":
        return this.#answer(message.id, () => this.#load(message, frame.payload));
      case "run":
        return this.#answer(message.id, () => this.#run(message, frame.payload));
      case "retain":
        return this.#retain(message.key, message.tensors, frame.payload);
      case "release":
        this.#retained.delete(message.key);
        return;
      default:
        return unreachable(message, "driver message");
    }
  }

  async #answer(id: number, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (thrown) {
      this.#send({ kind: "failed", id, error: toErrorRecord(thrown) }, []);
    }
    this.#sessions.rest();
  }

  async #load(message: DriverMessage & { kind: "load" }, payload: Uint8Array): Promise<void> {
    const begun = performance.now();
    const { name, inputs, outputs, weightBytes, sequential } = message;
    const onnx = payload.subarray(0, message.onnxBytes);
    await this.#sessions.load({ name, onnx, inputs, outputs, weightBytes }, sequential);
    this.#send({ kind: "loaded", id: message.id, seconds: secondsSince(begun) }, []);
  }

  async #run(message: DriverMessage & { kind: "run" }, payload: Uint8Array): Promise<void> {
    const { session, loadSeconds } = await this.#sessions.use(message.graph);
    const inputs: Record<string, Tensor> = {};
    for (const [name, parts] of Object.entries(message.inputs)) {
      inputs[name] = stack(parts.map((part) => this.#part(part, payload)));
    }
    const begun = performance.now();
    const outputs = await session.run(inputs, message.outputs);
    const seconds = secondsSince(begun);
    const writer = new PayloadWriter();
    const tensors = writer.addAll(outputs);
    this.#send({ kind: "done", id: message.id, seconds, loadSeconds, tensors }, writer.parts);
  }

  #retain(key: string, headers: Readonly<Record<string, TensorHeader>>, payload: Uint8Array): void {
    this.#retained.set(key, tensorsFrom(headers, payload));
  }

  #part(part: PartHeader, payload: Uint8Array): Tensor {
    if (part.from === "payload") return tensorFrom(part.tensor, payload);
    const tensor = this.#retained.get(part.key)?.[part.name];
    if (tensor === undefined) {
      throw new AppError("failed_precondition", `${part.name} of ${part.key} is not retained`);
    }
    return tensor;
  }
}

/** Tensors laid behind one another along the first dimension; a single one is itself. */
function stack(parts: readonly Tensor[]): Tensor {
  const [first] = parts;
  if (first === undefined) throw new AppError("internal", "an input without parts");
  if (parts.length === 1) return first;
  const [rows = 1, ...rest] = first.dims;
  if (parts.some((part) => part.type !== first.type || part.dims.slice(1).join() !== rest.join())) {
    throw new AppError("internal", `rows of different shapes: ${parts.map((p) => `[${p.dims}]`)}`);
  }
  const dims = [parts.reduce((sum, part) => sum + (part.dims[0] ?? rows), 0), ...rest];
  return { type: first.type, dims, data: stackData(parts, elementCount(dims)) };
}

function stackData(parts: readonly Tensor[], count: number): TensorData {
  const sample = parts[0]!.data;
  const make = sample.constructor as new (count: number) => TensorData;
  const data = new make(count);
  let offset = 0;
  for (const part of parts) {
    (data as Float32Array).set(part.data as Float32Array, offset);
    offset += part.data.length;
  }
  return data;
}

function secondsSince(begun: number): number {
  return (performance.now() - begun) / 1000;
}
