/**
 * Appends to an `OnnxGraph`. Every node gets a name that says where in the network it stands, like
 * `double.3.img.attn.q`, and its output is named after it, so that a value in an error message or
 * a profile leads straight to the line that made it.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { encodeFloats } from "./float-bits.ts";
import {
  ELEMENT_CODE,
  type Attributes,
  type ElementType,
  type ExternalData,
  type OnnxGraph,
  type OnnxNode,
  type RunType,
} from "./graph.ts";

export class GraphBuilder {
  readonly graph: OnnxGraph;
  readonly #names = new Set<string>();

  constructor(name: string) {
    this.graph = {
      name,
      nodes: [],
      initializers: [],
      inputs: [],
      outputs: [],
      weightBytes: 0,
      quantised: [],
      tableBytes: 0,
    };
  }

  /** A standard operator with one output, which it returns. */
  node(name: string, operator: string, inputs: string[], attributes: Attributes = {}): string {
    this.#append({ name, operator, domain: "", inputs, outputs: [name], attributes });
    return name;
  }

  /** An operator of the runtime's own domain with one output, which it returns. */
  fused(name: string, operator: string, inputs: string[], attributes: Attributes = {}): string {
    this.#append({ name, operator, domain: "com.microsoft", inputs, outputs: [name], attributes });
    return name;
  }

  /** Splits the last axis into equal parts, one per name; outputs are `<name>.<part>`. */
  split<Part extends string>(name: string, input: string, parts: readonly Part[]) {
    const outputs = parts.map((part) => `${name}.${part}`);
    const attributes = { axis: { int: -1 }, num_outputs: { int: parts.length } };
    this.#append({ name, operator: "Split", domain: "", inputs: [input], outputs, attributes });
    return Object.fromEntries(parts.map((part) => [part, `${name}.${part}`])) as Record<
      Part,
      string
    >;
  }

  /** A one-dimensional int64 constant; equal ones are shared. */
  ints(...values: number[]): string {
    const name = `ints.${values.join(".")}`;
    const data = new Uint8Array(BigInt64Array.from(values, (value) => BigInt(value)).buffer);
    return this.#shared(name, "int64", [values.length], data);
  }

  /** An int64 constant without dimensions; equal ones are shared. */
  int(value: number): string {
    const data = new Uint8Array(BigInt64Array.of(BigInt(value)).buffer);
    return this.#shared(`int.${value}`, "int64", [], data);
  }

  /** A floating point constant without dimensions; equal ones are shared. */
  scalar(type: RunType, value: number): string {
    return this.#shared(`${type}.${value}`, type, [], encodeFloats(type, [value]));
  }

  /** A vector of one repeated value; equal ones are shared. */
  filled(type: RunType, value: number, count: number): string {
    const values = Array.from({ length: count }, () => value);
    return this.#shared(`${type}.${value}x${count}`, type, [count], encodeFloats(type, values));
  }

  /** A float32 vector under a name of its own. */
  floats(name: string, values: readonly number[]): string {
    return this.#shared(name, "float32", [values.length], encodeFloats("float32", values));
  }

  /** An int64 constant under a name of its own. */
  table(name: string, values: readonly number[]): string {
    const data = new Uint8Array(BigInt64Array.from(values, (value) => BigInt(value)).buffer);
    return this.#shared(name, "int64", [values.length], data);
  }

  /** A weight whose bytes stay in their file. */
  external(
    name: string,
    type: RunType | "uint8",
    dims: readonly number[],
    data: ExternalData,
  ): string {
    assert(!this.#names.has(name), `two initializers named ${name}`);
    this.#names.add(name);
    this.graph.initializers.push({ name, type, dims, data });
    return name;
  }

  input(name: string, type: ElementType, dims: readonly (number | string)[]): string {
    this.#claim(name);
    this.graph.inputs.push({ name, type, dims });
    return name;
  }

  output(name: string, type: ElementType, dims: readonly (number | string)[]): void {
    this.graph.outputs.push({ name, type, dims });
  }

  /** Another element type; the value itself when it has that type already. */
  cast(name: string, value: string, from: RunType, to: RunType): string {
    return from === to
      ? value
      : this.node(name, "Cast", [value], { to: { int: ELEMENT_CODE[to] } });
  }

  #append(node: OnnxNode): void {
    for (const output of node.outputs) this.#claim(output);
    this.graph.nodes.push(node);
  }

  #claim(name: string): void {
    assert(!this.#names.has(name), `two values named ${name} in graph ${this.graph.name}`);
    this.#names.add(name);
  }

  #shared(name: string, type: ElementType, dims: readonly number[], data: Uint8Array): string {
    if (this.#names.has(name)) return name;
    this.#names.add(name);
    this.graph.initializers.push({ name, type, dims, data });
    return name;
  }
}
