/** How a driver tells its runner which device it is: command-line arguments, made and read here. */
import { assert } from "@fluxline/kernel/assert.ts";
import { parseArgs } from "node:util";
import type { SimulatedCosts } from "./simulated-backend.ts";

export const PROVIDERS = ["cpu", "cuda", "tensorrt", "webgpu", "simulated"] as const;
export type Provider = (typeof PROVIDERS)[number];

export type RunnerArguments =
  | { readonly provider: Exclude<Provider, "simulated">; readonly threads: number }
  | { readonly provider: "simulated"; readonly simulatedCosts: SimulatedCosts };

/** `role` is for people: what the process is to its group, like `rank 1`. */
export function runnerArguments(options: RunnerArguments, role: string): string[] {
  const named = ["--role", role];
  if (options.provider === "simulated") {
    const costs = JSON.stringify(options.simulatedCosts);
    return [...named, "--provider", "simulated", "--simulated-costs", costs];
  }
  return [...named, "--provider", options.provider, "--threads", String(options.threads)];
}

export function parseRunnerArguments(argv: readonly string[]): RunnerArguments & { role: string } {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      role: { type: "string", default: "" },
      provider: { type: "string" },
      threads: { type: "string" },
      "simulated-costs": { type: "string" },
    },
  });
  const provider = PROVIDERS.find((known) => known === values.provider);
  assert(provider !== undefined, `a driver names one of ${PROVIDERS.join(", ")}`);
  const { role } = values;
  if (provider !== "simulated") return { role, provider, threads: Number(values.threads) };
  return { role, provider, simulatedCosts: JSON.parse(values["simulated-costs"] ?? "") };
}
