/** Activation functions by the names that config files give them. */
import type { JsonConfig } from "../core/json-config.ts";
import type { Network } from "./network.ts";

export const ACTIVATIONS = [
  "quick_gelu",
  "gelu",
  "gelu_new",
  "gelu_pytorch_tanh",
  "relu",
  "silu",
  "swish",
  "mish",
] as const;

export type Activation = (typeof ACTIVATIONS)[number];

export function readActivation(config: JsonConfig, key: string, fallback: Activation): Activation {
  return config.oneOf(key, ACTIVATIONS, fallback);
}

export function activate(network: Network, at: string, input: string, kind: Activation): string {
  const { build } = network;
  switch (kind) {
    case "quick_gelu": // x * sigmoid(1.702 x)
      return build.fused(at, "QuickGelu", [input], { alpha: { float: 1.702 } });
    case "gelu": // with the error function
      return build.node(at, "Gelu", [input], { approximate: { string: "none" } });
    case "gelu_new":
    case "gelu_pytorch_tanh":
      return build.node(at, "Gelu", [input], { approximate: { string: "tanh" } });
    case "relu":
      return build.node(at, "Relu", [input]);
    case "silu":
    case "swish":
      return network.silu(at, input);
    case "mish": // x * tanh(ln(1 + e^x))
      return build.node(at, "Mish", [input]);
  }
}
