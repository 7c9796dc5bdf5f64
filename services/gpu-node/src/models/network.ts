/**
 * What all networks need to become a graph: their weights, checked by name, shape and type against
 * what their config promises, and the layers that they share. Layers go through one recipe
 * everywhere, because two recipes for the same sum differ in the last bits.
 *
 * Weights keep the type in which they are stored; where the run type differs, a Cast stands behind
 * them, which the runtime folds away while it loads.
 */
import { checkpointError } from "../core/checkpoint-error.ts";
import type { Component } from "../core/checkpoint.ts";
import { elementCount } from "../core/tensor.ts";
import { ELEMENT_BYTES, type StoredTensor, type StoredType } from "../core/safetensors.ts";
import { FLOAT16_MAX, FLOAT_BYTES } from "../onnx/float-bits.ts";
import type { RunType } from "../onnx/graph.ts";
import { GraphBuilder } from "../onnx/graph-builder.ts";

const STORED_AS: Partial<Record<StoredType, RunType>> = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
};

/** `fused` for CPU and CUDA; `portable` has only operators that WebGPU, too, computes right. */
export type Recipe = "fused" | "portable";

export interface LinearShape {
  readonly inputs: number;
  readonly outputs: number;
  /** Default true. */
  readonly bias?: boolean;
}

export class Network {
  readonly part: Component;
  readonly runType: RunType;
  readonly recipe: Recipe;
  readonly build: GraphBuilder;
  readonly #loaded = new Map<string, string>();

  constructor(part: Component, name: string, runType: RunType, recipe: Recipe = "fused") {
    this.part = part;
    this.recipe = recipe;
    this.runType = runType;
    this.build = new GraphBuilder(name);
  }

  /** The first of these names that the checkpoint has; otherwise an error naming the first. */
  find(...names: readonly [string, ...string[]]): string {
    return names.find((name) => this.part.weights.has(name)) ?? names[0];
  }

  /** A weight in the run type (or another, where a network insists). */
  weight(name: string, shape: readonly number[], type: RunType = this.runType): string {
    const key = `${name}:${type}`;
    const loaded = this.#loaded.get(key);
    if (loaded !== undefined) return loaded;
    const { raw, storedAs } = this.#raw(name, shape);
    const value = this.build.cast(`${name}.as.${type}`, raw, storedAs, type);
    this.#loaded.set(key, value);
    this.build.graph.weightBytes += elementCount(shape) * FLOAT_BYTES[type];
    return value;
  }

  /**
   * Rows of a table, in the run type. The table itself stays as it is stored, and in its file,
   * unless the provider may be unable to read that type.
   */
  lookup(at: string, name: string, shape: readonly number[], ids: string): string {
    if (this.recipe === "portable") {
      return this.build.node(at, "Gather", [this.weight(name, shape), ids]);
    }
    const { raw, storedAs } = this.#raw(name, shape);
    const bytes = elementCount(shape) * FLOAT_BYTES[storedAs];
    this.build.graph.weightBytes += bytes;
    this.build.graph.tableBytes += bytes;
    const rows = this.build.node(`${at}.rows`, "Gather", [raw, ids]);
    return this.build.cast(at, rows, storedAs, this.runType);
  }

  #raw(name: string, shape: readonly number[]): { raw: string; storedAs: RunType } {
    const { stored, storedAs } = this.#stored(name, shape);
    const raw = this.#loaded.get(name) ?? this.build.external(name, storedAs, shape, stored);
    this.#loaded.set(name, raw);
    return { raw, storedAs };
  }

  #stored(name: string, shape: readonly number[]): { stored: StoredTensor; storedAs: RunType } {
    const stored = this.part.weights.get(name) ?? this.#assumed(name, shape);
    const config = this.part.config.file;
    if (stored === undefined) {
      const folder = config.replace(/[^/]*$/, "");
      const why = `the weights have no such tensor, which ${config} asks for`;
      throw checkpointError(`${folder}: ${name}`, `${why}; use the files of one model`);
    }
    const place = `${stored.file}: ${name}`;
    if (!sameShape(stored.shape, shape)) {
      const found = `has shape [${stored.shape.join(", ")}]`;
      const asked = `${config} asks for [${shape.join(", ")}]`;
      throw checkpointError(place, `${found}, but ${asked}; use the files of one model`);
    }
    const storedAs = STORED_AS[stored.dtype];
    if (storedAs !== undefined) return { stored, storedAs };
    const known = Object.keys(STORED_AS).join(", ");
    throw checkpointError(place, `is stored as ${stored.dtype}; supported: ${known}`);
  }

  /** Of a part without weights: what the config promises, nowhere in particular. */
  #assumed(name: string, shape: readonly number[]): StoredTensor | undefined {
    const { assumedType: dtype, config } = this.part;
    if (dtype === undefined) return undefined;
    const length = elementCount(shape) * ELEMENT_BYTES[dtype];
    return { name, dtype, shape, file: config.file, offset: 0, length };
  }

  /** An input in float32 as callers give it, then in the run type. */
  floatInput(name: string, dims: readonly (number | string)[]): string {
    const given = this.build.input(name, "float32", dims);
    return this.build.cast(`${name}.as.${this.runType}`, given, "float32", this.runType);
  }

  /** An output in float32, whatever the run type. */
  floatOutput(name: string, value: string, dims: readonly (number | string)[], from?: RunType) {
    const type = from ?? this.runType;
    if (type === "float32") this.build.node(name, "Identity", [value]);
    else this.build.cast(name, value, type, "float32");
    this.build.output(name, "float32", dims);
  }

  /** Leading dimensions of [B, T, ...] with the last left open: what `linear` restores. */
  rowsShape(name: string, value: string): string {
    const rows = this.build.node(`${name}.rows`, "Shape", [value], { end: { int: 2 } });
    return this.build.node(name, "Concat", [rows, this.build.ints(-1)], { axis: { int: 0 } });
  }

  /** [N, inputs] -> [N, outputs]. */
  linear2d(at: string, input: string, weights: string, shape: LinearShape, type?: RunType): string {
    const run = type ?? this.runType;
    const dims = [shape.outputs, shape.inputs];
    const inputs = [input, this.weight(`${weights}.weight`, dims, run)];
    if (shape.bias !== false) inputs.push(this.weight(`${weights}.bias`, [shape.outputs], run));
    return this.build.node(at, "Gemm", inputs, { transB: { int: 1 } });
  }

  /** [B, T, inputs] -> [B, T, outputs]; `rows`: the `rowsShape` of any value with that B and T. */
  linear(
    at: string,
    input: string,
    weights: string,
    shape: LinearShape & { readonly rows: string },
    type?: RunType,
  ): string {
    const flat = this.#flat(input, shape.inputs);
    const product = this.linear2d(`${at}.gemm`, flat, weights, shape, type);
    return this.build.node(at, "Reshape", [product, shape.rows]);
  }

  /** [B, T, width] -> [B * T, width], once per value. */
  #flat(value: string, width: number): string {
    const key = `${value}.flat`;
    const known = this.#loaded.get(key);
    if (known !== undefined) return known;
    const flat = this.build.node(key, "Reshape", [value, this.build.ints(-1, width)]);
    this.#loaded.set(key, flat);
    return flat;
  }

  add(at: string, a: string, b: string): string {
    return this.build.node(at, "Add", [a, b]);
  }

  /** Root mean square norm with a learned scale: x / sqrt(mean(x^2) + eps) * weight. */
  rmsNorm(at: string, input: string, weight: string, epsilon: number): string {
    return this.build.node(at, "SimplifiedLayerNormalization", [input, weight], {
      axis: { int: -1 },
      epsilon: { float: epsilon },
      stash_type: { int: 1 },
    });
  }

  layerNorm(at: string, input: string, weights: string, width: number, epsilon: number): string {
    const scale = this.weight(`${weights}.weight`, [width]);
    const bias = this.weight(`${weights}.bias`, [width]);
    return this.build.node(at, "LayerNormalization", [input, scale, bias], {
      axis: { int: -1 },
      epsilon: { float: epsilon },
    });
  }

  /** x * sigmoid(x). */
  silu(at: string, input: string): string {
    return this.build.fused(at, "QuickGelu", [input], { alpha: { float: 1 } });
  }

  /** In float16, cuts off what would become infinite in the next sum; elsewhere nothing. */
  clipped(at: string, value: string): string {
    if (this.runType !== "float16") return value;
    const limits = [-FLOAT16_MAX, FLOAT16_MAX].map((limit) => this.build.scalar("float16", limit));
    return this.build.node(at, "Clip", [value, ...limits]);
  }
}

/** Equal, up to trailing ones: the same bytes in the same order. */
function sameShape(a: readonly number[], b: readonly number[]): boolean {
  const axes = Math.max(a.length, b.length);
  return Array.from({ length: axes }, (_, axis) => (a[axis] ?? 1) === (b[axis] ?? 1)).every(
    Boolean,
  );
}
