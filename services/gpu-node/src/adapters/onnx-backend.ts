/** onnxruntime as a runner's device. */
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import { openSession, type ProviderName } from "./onnx-session.ts";
import type { DeviceBackend } from "./runner/backend.ts";

export function onnxBackend(provider: ProviderName, threads: number): DeviceBackend {
  return {
    device: provider === "cpu" ? `cpu, ${threads} threads` : provider,
    simulated: false,
    open: async (graph) => {
      try {
        return await openSession(graph, { provider, threads });
      } catch (thrown) {
        throw withWayOut(toAppError(thrown), provider);
      }
    },
  };
}

function withWayOut(error: AppError, provider: ProviderName): AppError {
  if (provider === "cpu" || error.reason !== "GRAPH_NOT_LOADED") return error;
  const message = `${error.message}; \`fluxline devices\` says what each provider needs`;
  const { reason, details, cause } = error;
  return new AppError(error.code, message, { reason, details, cause });
}
