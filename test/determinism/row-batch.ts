/** Batches of a network's inputs for tests of what a row's mates do to it. */
import { float32Tensor, type NamedTensors, type Tensor } from "@fluxline/gpu-node/core/tensor.ts";

/** Inputs without a row dimension. */
const SHARED = new Set(["rope_cos", "rope_sin", "text_length"]);

/** `rows` rows; the one at `place` is the first of those given, the others hold other numbers. */
export function batchOf(inputs: NamedTensors, rows: number, place: number): NamedTensors {
  const repeat = ([name, tensor]: [string, Tensor]): [string, Tensor] => {
    if (SHARED.has(name)) return [name, tensor];
    const size = tensor.data.length / (tensor.dims[0] ?? 1);
    const one = (tensor.data as Float32Array).subarray(0, size);
    const data = new Float32Array(rows * size);
    for (let row = 0; row < rows; row++) {
      const scale = row === place ? 1 : 0.5 + row / 7;
      data.set(
        one.map((value) => value * scale),
        row * size,
      );
    }
    return [name, float32Tensor(data, [rows, ...tensor.dims.slice(1)])];
  };
  return Object.fromEntries(Object.entries(inputs).map(repeat));
}

/** Stages that begin among the single blocks are told where the text ends. */
export function withTextLength(inputs: NamedTensors): NamedTensors {
  const tokens = inputs["encoder_hidden_states"]!.dims[1]!;
  const length: Tensor = { type: "int64", dims: [1], data: BigInt64Array.of(BigInt(tokens)) };
  return { ...inputs, text_length: length };
}
