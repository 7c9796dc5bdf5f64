/** What a runner needs of a device. onnxruntime is one backend, `simulated` another. */
import type { GraphDefinition } from "../../core/image-model.ts";
import type { NamedTensors } from "../../core/tensor.ts";

export interface GraphSession {
  run(inputs: NamedTensors, outputs: readonly string[]): Promise<NamedTensors>;
  /** Gives its memory back. */
  close(): Promise<void>;
}

export interface DeviceBackend {
  /** For people: provider and threads, or what is simulated. */
  readonly device: string;
  readonly simulated: boolean;
  open(graph: GraphDefinition): Promise<GraphSession>;
}
