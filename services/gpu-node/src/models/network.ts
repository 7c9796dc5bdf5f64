/**
 * What all networks need to become a graph: their weights, checked by name, shape and type against
 * what their config promises, and the layers that they share. Layers go through one recipe
 * everywhere, because two recipes for the same sum differ in the last bits.
 *
 * Weights keep the type in which they are stored; where the run type differs, a Cast stands behind
 * them, which the runtime folds away while it loads. In a network that is quantised the linear
 * layers of its blocks are int8 instead, in files that are made from the checkpoint.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { checkpointError } from "../core/checkpoint-error.ts";
import type { Component } from "../core/checkpoint.ts";
import { elementCount } from "../core/tensor.ts";
import {
  codeBytes,
  QUANTISATION_BLOCK,
  quantisationBlocks,
  quantisedBytes,
  scaleBytes,
} from "../core/quantisation.ts";
import { QuantisedFileLayout, type QuantisedPlace } from "../core/quantised-file.ts";
import { ELEMENT_BYTES, type StoredTensor, type StoredType } from "../core/safetensors.ts";
import { FLOAT16_MAX, FLOAT_BYTES } from "../onnx/float-bits.ts";
import type { RunType } from "../onnx/graph.ts";
import { GraphBuilder } from "../onnx/graph-builder.ts";

const STORED_AS: Partial<Record<StoredType, RunType>> = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
};

/** MatMulNBits with this computes in int8 and sums in int32; below it, in float32, far slower. */
const ACCURACY_INT8 = 4;

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
  readonly #quantised: QuantisedPlace | undefined;
  /** Of the block that is being built, if its linear layers are quantised. */
  #layout: QuantisedFileLayout | undefined;

  /** `quantised`: where the files of the linear layers of its blocks lie; absent: none are. */
  constructor(
    part: Component,
    name: string,
    runType: RunType,
    recipe: Recipe = "fused",
    quantised?: QuantisedPlace,
  ) {
    this.part = part;
    this.#quantised = quantised;
    this.recipe = recipe;
    this.runType = runType;
    this.build = new GraphBuilder(name);
  }

  /** Builds a block: its linear layers are what is quantised, into one file of that name. */
  block<Built>(name: string, build: () => Built): Built {
    if (this.#quantised === undefined) return build();
    assert(this.#layout === undefined, `block ${name} stands inside another`);
    const layout = new QuantisedFileLayout(this.#quantised, `${this.part.name}.${name}`);
    this.#layout = layout;
    const built = build();
    this.#layout = undefined;
    this.build.graph.quantised.push(layout.finish());
    return built;
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
    if (this.#layout !== undefined) {
      return this.#quantisedLinear(this.#layout, at, input, weights, shape, run);
    }
    const dims = [shape.outputs, shape.inputs];
    const inputs = [input, this.weight(`${weights}.weight`, dims, run)];
    if (shape.bias !== false) inputs.push(this.weight(`${weights}.bias`, [shape.outputs], run));
    return this.build.node(at, "Gemm", inputs, { transB: { int: 1 } });
  }

  /** [N, inputs] -> [N, outputs] with a weight of int8 codes; numbers in and out are `type`. */
  #quantisedLinear(
    layout: QuantisedFileLayout,
    at: string,
    input: string,
    weights: string,
    shape: LinearShape,
    type: RunType,
  ): string {
    const { build } = this;
    const { outputs, inputs } = shape;
    const name = `${weights}.weight`;
    const { stored } = this.#stored(name, [outputs, inputs]);
    const { codesOffset, scalesOffset } = layout.add(stored, outputs, inputs);
    const blocks = [outputs, quantisationBlocks(inputs)];
    const codes = build.external(`${name}.codes`, "uint8", [...blocks, QUANTISATION_BLOCK], {
      file: layout.path,
      offset: codesOffset,
      length: codeBytes(outputs, inputs),
    });
    const exact = build.external(`${name}.scales`, "float32", blocks, {
      file: layout.path,
      offset: scalesOffset,
      length: scaleBytes(outputs, inputs),
    });
    build.graph.weightBytes += quantisedBytes(outputs, inputs);
    const scales = build.cast(`${name}.scales.as.${type}`, exact, "float32", type);
    const even = this.#evenRows(input);
    const operands = [even.value, codes, scales];
    if (shape.bias !== false) {
      operands.push("", "", this.weight(`${weights}.bias`, [outputs], type));
    }
    const product = build.fused(even.count === "" ? at : `${at}.even`, "MatMulNBits", operands, {
      K: { int: inputs },
      N: { int: outputs },
      bits: { int: 8 },
      block_size: { int: QUANTISATION_BLOCK },
      accuracy_level: { int: ACCURACY_INT8 },
    });
    if (even.count === "") return product;
    return build.node(at, "Slice", [product, build.ints(0), even.count, build.ints(0)]);
  }

  /**
   * [N, width] with a row of zeros added where N is odd, and N (empty: nothing was added). The CPU's
   * int8 kernels take rows in pairs and sum a last single one in another order; so no row is single,
   * and none depends on how many stand beside it. Once per value.
   */
  #evenRows(value: string): { readonly value: string; readonly count: string } {
    if (this.runType !== "float32") return { value, count: "" };
    const { build } = this;
    const count = `${value}.count`;
    const known = this.#loaded.get(`${value}.even`);
    if (known !== undefined) return { value: known, count };
    build.node(count, "Shape", [value], { start: { int: 0 }, end: { int: 1 } });
    const odd = build.node(`${value}.odd`, "Mod", [count, build.ints(2)]);
    const sides = [build.ints(0, 0), odd, build.ints(0)];
    const pads = build.node(`${value}.pads`, "Concat", sides, { axis: { int: 0 } });
    const even = build.node(`${value}.even`, "Pad", [value, pads]);
    this.#loaded.set(`${value}.even`, even);
    return { value: even, count };
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
