/**
 * Tensors on the host: plain typed arrays with dimensions, the only form in which numbers travel
 * between cores, models and runners. Nothing here knows a runtime.
 */
import { assert } from "@fluxline/kernel/assert.ts";

export type TensorType = "float32" | "float16" | "int64" | "int32";

export type TensorData = Float32Array | Uint16Array | BigInt64Array | Int32Array;

/** Row-major; float16 is carried as its bits in a Uint16Array. */
export interface Tensor {
  readonly type: TensorType;
  readonly dims: readonly number[];
  readonly data: TensorData;
}

export type NamedTensors = Readonly<Record<string, Tensor>>;

export function elementCount(dims: readonly number[]): number {
  return dims.reduce((product, dim) => product * dim, 1);
}

export function float32Tensor(data: Float32Array, dims: readonly number[]): Tensor {
  assert(data.length === elementCount(dims), `${data.length} values for [${dims.join(", ")}]`);
  return { type: "float32", dims, data };
}

export function int64Tensor(values: readonly number[], dims: readonly number[]): Tensor {
  assert(values.length === elementCount(dims), `${values.length} values for [${dims.join(", ")}]`);
  return { type: "int64", dims, data: BigInt64Array.from(values, (value) => BigInt(value)) };
}
