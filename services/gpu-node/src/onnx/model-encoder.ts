/**
 * An `OnnxGraph` as the bytes of an ONNX ModelProto. Field numbers are those of onnx.proto, named
 * beside each use. External data is located by absolute path without its leading slash, because
 * the runtime is told that its folder is `/`: so any folder layout works, links included.
 */
import { unreachable } from "@fluxline/kernel/assert.ts";
import {
  ELEMENT_CODE,
  type Attribute,
  type Initializer,
  type OnnxGraph,
  type OnnxNode,
  type ValueInfo,
} from "./graph.ts";
import { ProtobufWriter } from "./protobuf-writer.ts";

const IR_VERSION = 10;
const OPSET = 23;
const MICROSOFT_OPSET = 1;

/** Numbers of the AttributeType enum. */
const ATTRIBUTE_TYPE = { float: 1, int: 2, string: 3, ints: 7 } as const;
const DATA_LOCATION_EXTERNAL = 1;

export function encodeModel(graph: OnnxGraph): Uint8Array {
  const model = new ProtobufWriter();
  model.int(1, IR_VERSION); // ir_version
  model.string(2, "fluxline"); // producer_name
  model.message(7, (out) => writeGraph(out, graph)); // graph
  for (const [domain, version] of [
    ["", OPSET],
    ["com.microsoft", MICROSOFT_OPSET],
  ] as const) {
    model.message(8, (out) => {
      out.string(1, domain);
      out.int(2, version);
    }); // opset_import
  }
  return model.finish();
}

function writeGraph(out: ProtobufWriter, graph: OnnxGraph): void {
  for (const node of graph.nodes) out.message(1, (inner) => writeNode(inner, node));
  out.string(2, graph.name);
  for (const tensor of graph.initializers) out.message(5, (inner) => writeTensor(inner, tensor));
  for (const value of graph.inputs) out.message(11, (inner) => writeValueInfo(inner, value));
  for (const value of graph.outputs) out.message(12, (inner) => writeValueInfo(inner, value));
}

function writeNode(out: ProtobufWriter, node: OnnxNode): void {
  for (const input of node.inputs) out.string(1, input);
  for (const output of node.outputs) out.string(2, output);
  out.string(3, node.name);
  out.string(4, node.operator);
  for (const [name, value] of Object.entries(node.attributes)) {
    out.message(5, (inner) => writeAttribute(inner, name, value));
  }
  if (node.domain !== "") out.string(7, node.domain);
}

function writeAttribute(out: ProtobufWriter, name: string, value: Attribute): void {
  out.string(1, name);
  if ("float" in value) {
    out.float(2, value.float); // f
    out.int(20, ATTRIBUTE_TYPE.float);
  } else if ("int" in value) {
    out.int(3, value.int); // i
    out.int(20, ATTRIBUTE_TYPE.int);
  } else if ("string" in value) {
    out.string(4, value.string); // s
    out.int(20, ATTRIBUTE_TYPE.string);
  } else if ("ints" in value) {
    for (const item of value.ints) out.int(8, item); // ints
    out.int(20, ATTRIBUTE_TYPE.ints);
  } else {
    unreachable(value, "attribute");
  }
}

function writeTensor(out: ProtobufWriter, { name, type, dims, data }: Initializer): void {
  for (const dim of dims) out.int(1, dim); // dims
  out.int(2, ELEMENT_CODE[type]); // data_type
  out.string(8, name); // name
  if (data instanceof Uint8Array) {
    out.bytes(9, data); // raw_data
    return;
  }
  const entries = {
    location: data.file.replace(/^\//, ""),
    offset: String(data.offset),
    length: String(data.length),
  };
  for (const [key, value] of Object.entries(entries)) {
    out.message(13, (entry) => {
      entry.string(1, key);
      entry.string(2, value);
    }); // external_data
  }
  out.int(14, DATA_LOCATION_EXTERNAL); // data_location
}

function writeValueInfo(out: ProtobufWriter, { name, type, dims }: ValueInfo): void {
  out.string(1, name);
  out.message(2, (typeProto) => {
    typeProto.message(1, (tensorType) => {
      tensorType.int(1, ELEMENT_CODE[type]); // elem_type
      tensorType.message(2, (shape) => {
        for (const dim of dims) {
          shape.message(1, (out) => {
            if (typeof dim === "number") out.int(1, dim); // dim_value
            else out.string(2, dim); // dim_param
          });
        }
      });
    });
  });
}
