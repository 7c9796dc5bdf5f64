/** What this machine can run a stage on: processors, memory, and onnxruntime's providers. */
import { availableParallelism, cpus, totalmem } from "node:os";
import { readCpuInstructions } from "./cpu-class.ts";
import { listProviders, type ProviderStatus } from "./provider-list.ts";

export interface DeviceList {
  readonly cpu: {
    readonly model: string;
    readonly cores: number;
    /** Widest instruction set that the CPU kernels use. */
    readonly instructions: string;
    readonly memoryBytes: number;
  };
  readonly providers: readonly ProviderStatus[];
}

export async function listDevices(): Promise<DeviceList> {
  return {
    cpu: {
      model: cpus()[0]?.model ?? "unknown",
      cores: availableParallelism(),
      instructions: readCpuInstructions(),
      memoryBytes: totalmem(),
    },
    providers: await listProviders(),
  };
}
