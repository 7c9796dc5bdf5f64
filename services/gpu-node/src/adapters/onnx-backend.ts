/** onnxruntime as a runner's device. */
import { openSession, type ProviderName } from "./onnx-session.ts";
import type { DeviceBackend } from "./runner/backend.ts";

export function onnxBackend(provider: ProviderName, threads: number): DeviceBackend {
  return {
    device: provider === "cpu" ? `cpu, ${threads} threads` : provider,
    simulated: false,
    open: (graph) => openSession(graph, { provider, threads }),
  };
}
