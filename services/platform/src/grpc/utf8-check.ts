/**
 * Finds strings that are not UTF-8 in an encoded message. The generated decoder turns each bad
 * byte into U+FFFD without a word, and the prompt would not be the one that was sent; proto3 says
 * that a string is UTF-8. So the bytes are walked first, along the message's description.
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { isUtf8 } from "node:buffer";

/** Nested deeper than this is refused, not walked. */
const depthMax = 64;

/**
 * Paths (`spec.prompt`) of string fields that hold invalid UTF-8. Throws when the bytes are not a
 * message at all.
 */
export function findInvalidUtf8(message: DescMessage, bytes: Uint8Array): string[] {
  const found = new Set<string>();
  walk(message, bytes, "", 0, found);
  return [...found];
}

function walk(
  message: DescMessage,
  bytes: Uint8Array,
  path: string,
  depth: number,
  found: Set<string>,
): void {
  if (depth > depthMax) throw new Error(`message is nested deeper than ${depthMax}`);
  const fields = fieldsByNumber(message);
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    const field = fields.get(number);
    if (wireType !== WireType.LengthDelimited || field === undefined) {
      reader.skip(wireType, number);
      continue;
    }
    const value = reader.bytes();
    const here = path === "" ? field.name : `${path}.${field.name}`;
    const kind = contentOf(field);
    if (kind === "string") {
      if (!isUtf8(value)) found.add(here);
    } else if (kind !== "other") {
      walk(kind, value, here, depth + 1, found);
    }
  }
}

function contentOf(field: DescField): "string" | "other" | DescMessage {
  switch (field.fieldKind) {
    case "scalar":
      return field.scalar === ScalarType.STRING ? "string" : "other";
    case "message":
      return field.message;
    case "list":
      if (field.listKind === "message") return field.message;
      return field.listKind === "scalar" && field.scalar === ScalarType.STRING ? "string" : "other";
    case "map":
    case "enum":
      // Requests of this API have no maps; a test holds that.
      return "other";
  }
}

const cache = new WeakMap<DescMessage, Map<number, DescField>>();

function fieldsByNumber(message: DescMessage): Map<number, DescField> {
  const known = cache.get(message);
  if (known) return known;
  const fields = new Map(message.fields.map((field) => [field.number, field]));
  cache.set(message, fields);
  return fields;
}
