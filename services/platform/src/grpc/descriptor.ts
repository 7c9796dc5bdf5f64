/** The description of the public API that was generated beside its code. */
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, type FileRegistry } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

export function readDescriptorSet(): Buffer {
  return readFileSync(new URL(import.meta.resolve("@fluxline/proto/descriptor.binpb")));
}

export function readRegistry(): FileRegistry {
  return createFileRegistry(fromBinary(FileDescriptorSetSchema, readDescriptorSet()));
}
