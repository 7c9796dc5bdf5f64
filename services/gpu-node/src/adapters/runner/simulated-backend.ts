/**
 * A device that computes nothing: it sleeps for the cost of each graph and returns tensors of the
 * right shapes, so that schedulers, dashboards and load tests run at the scale of a cluster
 * without GPUs. It is never the default, and every log, record and response says that it ran.
 */
import { AppError } from "@fluxline/kernel/error.ts";
import type { GraphDefinition, TensorSpec } from "../../core/image-model.ts";
import {
  elementCount,
  type NamedTensors,
  type Tensor,
  type TensorType,
} from "../../core/tensor.ts";
import type { DeviceBackend, GraphSession } from "./backend.ts";

/** Seconds that a graph takes: a fixed part and a part for each row of the batch. */
export interface SimulatedCost {
  readonly baseSeconds: number;
  readonly rowSeconds: number;
}

/** By graph name; `default` serves the graphs that are not named. */
export type SimulatedCosts = Readonly<Record<string, SimulatedCost>> & {
  readonly default: SimulatedCost;
};

export function simulatedBackend(costs: SimulatedCosts): DeviceBackend {
  return {
    device: "simulated",
    simulated: true,
    open: (graph) => Promise.resolve(simulatedSession(graph, costs[graph.name] ?? costs.default)),
  };
}

function simulatedSession(graph: GraphDefinition, cost: SimulatedCost): GraphSession {
  return {
    close: () => Promise.resolve(),
    async run(inputs, outputs) {
      const sizes = bindDimensions(graph, inputs);
      const rows = sizes.get("B") ?? 1;
      const milliseconds = (cost.baseSeconds + cost.rowSeconds * rows) * 1000;
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
      const wanted = graph.outputs.filter((output) => outputs.includes(output.name));
      return Object.fromEntries(wanted.map((output) => [output.name, emptyTensor(output, sizes)]));
    },
  };
}

/** Sizes of the graph's named dimensions, read off the inputs; and inputs that are one number. */
function bindDimensions(graph: GraphDefinition, inputs: NamedTensors): Map<string, number> {
  const sizes = new Map<string, number>();
  for (const spec of graph.inputs) {
    const tensor = inputs[spec.name];
    if (tensor === undefined) {
      throw new AppError("internal", `graph ${graph.name}: input ${spec.name} is missing`);
    }
    spec.dims.forEach((dim, axis) => {
      if (typeof dim === "string") sizes.set(dim, tensor.dims[axis] ?? 1);
    });
    if (spec.type === "int64" && tensor.data.length === 1) {
      sizes.set(spec.name, Number(tensor.data[0]));
    }
  }
  return sizes;
}

/** A dimension is a number, a name, a product of both like `8*h`, or a difference like `S-T`. */
function dimensionSize(dim: number | string, sizes: ReadonlyMap<string, number>): number {
  if (typeof dim === "number") return dim;
  const [whole, ...less] = dim.split("-").map((term) =>
    term.split("*").reduce((product, factor) => {
      const name = factor.trim();
      const value = sizes.get(name) ?? Number(name);
      if (!Number.isFinite(value)) throw new AppError("internal", `unknown dimension ${dim}`);
      return product * value;
    }, 1),
  );
  return less.reduce((size, term) => size - term, whole!);
}

function emptyTensor(spec: TensorSpec, sizes: ReadonlyMap<string, number>): Tensor {
  const dims = spec.dims.map((dim) => dimensionSize(dim, sizes));
  return { type: spec.type, dims, data: emptyData(spec.type, elementCount(dims)) };
}

function emptyData(type: TensorType, count: number): Tensor["data"] {
  switch (type) {
    case "float32":
      return new Float32Array(count);
    case "float16":
      return new Uint16Array(count);
    case "int64":
      return new BigInt64Array(count);
    case "int32":
      return new Int32Array(count);
  }
}
