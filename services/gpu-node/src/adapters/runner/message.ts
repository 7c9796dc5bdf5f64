/**
 * What driver and runner say to each other. The runner is an executor of named graphs on one
 * device: it keeps sessions and retained tensors, and knows neither jobs nor FLUX. It answers
 * requests in the order in which they came.
 *
 *   driver -> runner   load, run           answered by loaded, done or failed with the same id
 *                      retain, release     not answered
 *   runner -> driver   ready               once, when it can take requests
 */
import type { ErrorRecord } from "@fluxline/kernel/error.ts";
import {
  elementCount,
  type NamedTensors,
  type Tensor,
  type TensorData,
  type TensorType,
} from "../../core/tensor.ts";
import type { TensorSpec } from "../../core/image-model.ts";
import { alignedBytes } from "../frame.ts";

/** A tensor whose data lies in the frame's payload at `offset`. */
export interface TensorHeader {
  readonly type: TensorType;
  readonly dims: readonly number[];
  readonly offset: number;
}

/** One graph input: parts laid behind one another along the first dimension. */
export type PartHeader =
  | { readonly from: "payload"; readonly tensor: TensorHeader }
  | { readonly from: "retained"; readonly key: string; readonly name: string };

export type DriverMessage =
  | {
      readonly kind: "load";
      readonly id: number;
      readonly name: string;
      readonly inputs: readonly TensorSpec[];
      readonly outputs: readonly TensorSpec[];
      readonly weightBytes: number;
      /** Loaded for each use and let go after it; now only to see that it can be. */
      readonly sequential: boolean;
      readonly onnxBytes: number;
    }
  | {
      readonly kind: "run";
      readonly id: number;
      readonly graph: string;
      readonly inputs: Readonly<Record<string, readonly PartHeader[]>>;
      readonly outputs: readonly string[];
    }
  | {
      readonly kind: "retain";
      readonly key: string;
      readonly tensors: Readonly<Record<string, TensorHeader>>;
    }
  | { readonly kind: "release"; readonly key: string };

export type RunnerMessage =
  | { readonly kind: "ready"; readonly device: string; readonly simulated: boolean }
  | { readonly kind: "loaded"; readonly id: number; readonly seconds: number }
  | {
      readonly kind: "done";
      readonly id: number;
      readonly seconds: number;
      /** What loading a sequential graph for this very call took; absent when it was loaded. */
      readonly loadSeconds?: number | undefined;
      readonly tensors: Readonly<Record<string, TensorHeader>>;
    }
  | { readonly kind: "failed"; readonly id: number; readonly error: ErrorRecord };

/** Collects tensor bytes for a frame's payload and hands out their headers. */
export class PayloadWriter {
  readonly parts: Uint8Array[] = [];
  #offset = 0;

  add(tensor: Tensor): TensorHeader {
    const { data } = tensor;
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const header = { type: tensor.type, dims: tensor.dims, offset: this.#offset };
    this.parts.push(bytes);
    this.#offset += alignedBytes(bytes.byteLength);
    return header;
  }

  addAll(tensors: NamedTensors): Readonly<Record<string, TensorHeader>> {
    const headers = Object.entries(tensors).map(([name, tensor]) => [name, this.add(tensor)]);
    return Object.fromEntries(headers);
  }
}

/** Lays a tensor over a payload, without a copy. */
export function tensorFrom(header: TensorHeader, payload: Uint8Array): Tensor {
  const count = elementCount(header.dims);
  const offset = payload.byteOffset + header.offset;
  return {
    type: header.type,
    dims: header.dims,
    data: dataOver(header.type, payload.buffer, offset, count),
  };
}

/** Lays tensors over a payload by name, without a copy. */
export function tensorsFrom(
  headers: Readonly<Record<string, TensorHeader>>,
  payload: Uint8Array,
): NamedTensors {
  const tensors = Object.entries(headers).map(([name, header]) => [
    name,
    tensorFrom(header, payload),
  ]);
  return Object.fromEntries(tensors);
}

function dataOver(
  type: TensorType,
  buffer: ArrayBufferLike,
  offset: number,
  count: number,
): TensorData {
  switch (type) {
    case "float32":
      return new Float32Array(buffer, offset, count);
    case "float16":
      return new Uint16Array(buffer, offset, count);
    case "int64":
      return new BigInt64Array(buffer, offset, count);
    case "int32":
      return new Int32Array(buffer, offset, count);
  }
}
