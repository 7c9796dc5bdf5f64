/** What the graphs of a model compute in, for what `--run-type` asks. */
import type { Precision } from "../core/precision.ts";
import type { RunType } from "../onnx/graph.ts";

/** How the graphs of a model are to compute. */
export interface Computation {
  readonly runType: RunType;
  /** Folder for quantised weights, absolute; absent: nothing is quantised. */
  readonly quantisedFolder?: string | undefined;
}

/** The CPU provider computes in float32 whatever it is given; GPUs are fast, and small, in 16 bits. */
const CPU_LIKE: ReadonlySet<string> = new Set(["cpu", "simulated"]);

export function computation(
  precision: Precision,
  provider: string,
  quantisedFolder: string,
): Computation {
  if (precision !== "int8") return { runType: precision };
  return { runType: CPU_LIKE.has(provider) ? "float32" : "float16", quantisedFolder };
}

/** Tells apart what gives different numbers: for keys of what is kept or batched. */
export function computationKey({ runType, quantisedFolder }: Computation): string {
  return quantisedFolder === undefined ? runType : `int8+${runType}`;
}
