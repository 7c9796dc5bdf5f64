/** Makes .safetensors files in memory, for tests and benchmarks; the service never writes any. */
import type { StoredType } from "./safetensors.ts";

export interface FileTensor {
  readonly dtype: StoredType;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export interface HeaderEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** A header as JSON with its length prefix; entries may lie, which is what tests are for. */
export function safetensorsHeader(entries: Readonly<Record<string, unknown>>): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(entries));
  const bytes = new Uint8Array(8 + json.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

/** A sound file: tensors one after another in the order given. */
export function safetensorsFile(tensors: Readonly<Record<string, FileTensor>>): Uint8Array {
  const entries: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let length = 0;
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    entries[name] = { dtype, shape, data_offsets: [length, length + data.length] };
    length += data.length;
  }
  const header = safetensorsHeader(entries);
  const file = new Uint8Array(header.length + length);
  file.set(header);
  let at = header.length;
  for (const { data } of Object.values(tensors)) {
    file.set(data, at);
    at += data.length;
  }
  return file;
}

export function float32FileTensor(shape: readonly number[], values: Iterable<number>): FileTensor {
  return { dtype: "F32", shape, data: new Uint8Array(Float32Array.from(values).buffer) };
}
