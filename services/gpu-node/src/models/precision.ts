/** What the graphs of a model compute in, for what `--run-type` asks. */
import type { Precision } from "../core/precision.ts";
import type { RunType } from "../onnx/graph.ts";

/** How the graphs of a model are to compute. */
export interface Computation {
  readonly runType: RunType;
  /** Folder for quantised weights, absolute; absent: nothing is quantised. */
  readonly quantisedFolder?: string | undefined;
}

/** The device is the processor itself: nothing is beside it, and its memory is the machine's. */
export function isProcessor(provider: string): boolean {
  return provider === "cpu" || provider === "simulated";
}

export function computation(
  precision: Precision,
  provider: string,
  quantisedFolder: string,
): Computation {
  if (precision !== "int8") return { runType: precision };
  // The CPU provider computes in float32 whatever it is given; GPUs are fast, and small, in 16 bits.
  return { runType: isProcessor(provider) ? "float32" : "float16", quantisedFolder };
}

/** Tells apart what gives different numbers: for keys of what is kept or batched. */
export function computationKey({ runType, quantisedFolder }: Computation): string {
  return quantisedFolder === undefined ? runType : `int8+${runType}`;
}
