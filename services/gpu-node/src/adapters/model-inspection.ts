/** What is in a model, which may be a hub's, and what a request of a given size would cost: `model inspect`. */
import { parseArgs } from "node:util";
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";
import { type RequestedImage, resolveRequest } from "@fluxline/kernel/image-request.ts";
import type { Component } from "../core/checkpoint.ts";
import type { RequestCost } from "../core/image-model.ts";
import { elementCount } from "../core/tensor.ts";
import { describeModel } from "../models/families.ts";
import type { Environment } from "./cache-folder.ts";
import { openModel } from "./model-source.ts";

export interface PartReport {
  readonly name: string;
  readonly files: number;
  readonly tensors: number;
  readonly parameters: number;
  /** As stored in the folder. */
  readonly bytes: number;
  /** Stored types, the one with most bytes first. */
  readonly types: readonly string[];
  /** Once loaded in float32. */
  readonly float32Bytes: number;
}

export interface ModelReport {
  readonly name: string;
  readonly family: string;
  readonly digest: string;
  readonly guidanceEmbedded: boolean;
  readonly parts: readonly PartReport[];
  readonly request: RequestCost & {
    readonly width: number;
    readonly height: number;
    readonly steps: number;
    /** Of the whole request, all passes of all steps. */
    readonly operations: number;
  };
}

const OPTIONS = {
  width: { type: "string" },
  height: { type: "string" },
  steps: { type: "string" },
  "max-sequence-length": { type: "string" },
  json: { type: "boolean" },
} as const;

export async function inspectModel(
  argv: readonly string[],
  environment: Environment,
): Promise<ModelReport> {
  const { reference, requested } = parse(argv);
  const { checkpoint } = await openModel(reference, environment);
  const model = describeModel(checkpoint, { runType: "float32" });
  const resolution = resolveRequest(model.profile, requested, 0n);
  if (!resolution.ok) throw invalidArgument(resolution.violations);
  const { request } = resolution;
  const { width, height, steps } = request;
  const cost = model.cost(request);
  const operations = cost.stepOperations * cost.passes * steps;
  const { name, family, digest, guidanceEmbedded } = model.profile;
  return {
    name,
    family,
    digest,
    guidanceEmbedded,
    parts: [...checkpoint.components.values()].map(partReport),
    request: { width, height, steps, ...cost, operations },
  };
}

function parse(argv: readonly string[]): { reference: string; requested: RequestedImage } {
  const { values, positionals } = parseArgs({
    args: [...argv],
    options: OPTIONS,
    allowPositionals: true,
  });
  const [reference] = positionals;
  if (reference === undefined) throw new AppError("invalid_argument", "inspect: give a model");
  const number = (text: string | undefined): number | undefined =>
    text === undefined ? undefined : Number(text);
  return {
    reference,
    requested: {
      prompt: "what a request costs",
      width: number(values.width),
      height: number(values.height),
      steps: number(values.steps),
      maxSequenceLength: number(values["max-sequence-length"]),
    },
  };
}

function partReport({ name, weights }: Component): PartReport {
  const bytesByType = new Map<string, number>();
  let parameters = 0;
  let bytes = 0;
  for (const { dtype, shape, length } of weights.values()) {
    parameters += elementCount(shape);
    bytes += length;
    bytesByType.set(dtype, (bytesByType.get(dtype) ?? 0) + length);
  }
  const types = [...bytesByType].toSorted(([, a], [, b]) => b - a).map(([type]) => type);
  return {
    name,
    files: new Set([...weights.values()].map(({ file }) => file)).size,
    tensors: weights.size,
    parameters,
    bytes,
    types,
    float32Bytes: parameters * Float32Array.BYTES_PER_ELEMENT,
  };
}
