/** Tensors of one call of a graph: what it is sent, and what it gave by name. */
import { assert } from "@fluxline/kernel/assert.ts";
import type { NamedTensors, Tensor } from "../core/tensor.ts";
import type { InputPart } from "./runner/device-runner.ts";

/** Each input in one part, sent along. */
export function callInputs(tensors: NamedTensors): Record<string, InputPart[]> {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, [{ tensor }]]));
}

export function named(tensors: NamedTensors, name: string): Tensor {
  const tensor = tensors[name];
  assert(tensor !== undefined, `no tensor ${name} among ${Object.keys(tensors).join(", ")}`);
  return tensor;
}
