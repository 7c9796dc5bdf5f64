/**
 * Which provider the GPU tests run on, and whether this machine has it. `FLUXLINE_GPU_PROVIDER` names
 * another than CUDA; `cpu` runs the tests themselves where there is no GPU, and says nothing of one.
 */
import { listProviders } from "@fluxline/gpu-node/adapters/provider-list.ts";
import { describe, test } from "vitest";

const PROVIDERS = ["cuda", "tensorrt", "cpu"] as const;

export interface GpuProvider {
  readonly name: (typeof PROVIDERS)[number];
  readonly available: boolean;
  /** One line: what runs here, or why nothing does. */
  readonly line: string;
}

export async function gpuProvider(asked = "cuda"): Promise<GpuProvider> {
  const name = PROVIDERS.find((known) => known === asked);
  if (name === undefined) {
    throw new Error(`FLUXLINE_GPU_PROVIDER is ${asked}; use ${PROVIDERS.join(", ")}`);
  }
  const status = (await listProviders()).find((one) => one.name === name);
  if (status === undefined) throw new Error(`the list of providers does not know ${name}`);
  const { available, detail } = status;
  const line = available
    ? `gpu tests run on ${name}: ${detail}`
    : `gpu tests are skipped, this machine has no ${name}: ${detail}`;
  return { name, available, line };
}

/** The tests where the provider is; elsewhere one that is skipped, with the reason for its name. */
export function describeOnGpu(provider: GpuProvider, tests: () => void): void {
  if (provider.available) describe(`on ${provider.name}`, tests);
  else test.skip(provider.line, tests);
}
