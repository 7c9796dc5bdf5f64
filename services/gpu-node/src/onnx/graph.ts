/**
 * An ONNX graph as plain data. Builders append to it, tests may change it (swap two inputs, alter
 * an attribute), `encodeModel` turns it into bytes. A large initializer is not held here: it is a
 * byte range of a file.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { QuantisedFile } from "../core/quantised-file.ts";

/** The types in which a network can run. */
export type RunType = "float32" | "float16" | "bfloat16";

/** Element types by their number in the ONNX format. */
export const ELEMENT_CODE = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  bfloat16: 16,
} as const;

export type ElementType = keyof typeof ELEMENT_CODE;

export type Attribute =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: readonly number[] };

export type Attributes = Record<string, Attribute>;

export interface OnnxNode {
  /** Unique; a node with one output names its output so too. */
  name: string;
  operator: string;
  /** Empty for the standard operators. */
  domain: "" | "com.microsoft";
  /** An empty name leaves out an optional input. */
  inputs: string[];
  outputs: string[];
  attributes: Attributes;
}

/** A byte range of a file, which the runtime maps when it loads the graph. */
export interface ExternalData {
  readonly file: string;
  readonly offset: number;
  readonly length: number;
}

export interface Initializer {
  name: string;
  type: ElementType;
  dims: readonly number[];
  data: Uint8Array | ExternalData;
}

/** An input or output; a string stands for a dimension that is known only at run time. */
export interface ValueInfo {
  name: string;
  type: ElementType;
  dims: readonly (number | string)[];
}

export interface OnnxGraph {
  name: string;
  nodes: OnnxNode[];
  initializers: Initializer[];
  inputs: ValueInfo[];
  outputs: ValueInfo[];
  /** Bytes of all weights in the type in which they are computed with. */
  weightBytes: number;
  /** Of these, the tables of which rows are looked up as they are stored. */
  tableBytes: number;
  /** Files that some of its initializers lie in and that are made from the checkpoint. */
  quantised: QuantisedFile[];
}

/** The node of that name. */
export function node(graph: OnnxGraph, name: string): OnnxNode {
  const found = graph.nodes.find((candidate) => candidate.name === name);
  assert(found !== undefined, `graph ${graph.name} has no node ${name}`);
  return found;
}
