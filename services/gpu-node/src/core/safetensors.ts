/**
 * The header of a .safetensors file: where each tensor's bytes lie. Networks read their weights in
 * place by these offsets, so everything is checked here, once, before any of it is believed: a
 * wrong offset would otherwise show as noise in a picture, or as a crash in native code.
 *
 *   0        8                8 + n                                    end of file
 *   | n: u64 | JSON, n bytes  | tensor | tensor | ...  (no gap, no overlap)      |
 */
import { checkpointError, shown } from "./checkpoint-error.ts";
import { isJsonObject, parseJsonObject, type JsonObject } from "./json-config.ts";

/** Bytes of one element; the types that the format defines with whole bytes. */
export const ELEMENT_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
} as const;

export type StoredType = keyof typeof ELEMENT_BYTES;

/** One tensor as a byte range of a file. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: StoredType;
  readonly shape: readonly number[];
  /** Absolute path. */
  readonly file: string;
  /** From the start of the file. */
  readonly offset: number;
  readonly length: number;
}

export type TensorIndex = ReadonlyMap<string, StoredTensor>;

export const LENGTH_PREFIX_BYTES = 8;
/** The limit of the format's own reader. */
export const HEADER_BYTES_MAX = 100_000_000;

const FETCH_AGAIN = "the file is damaged or its download was cut short; fetch it again";

/** Length of the JSON part, from the first eight bytes of the file. */
export function headerLength(file: string, fileBytes: number, prefix: Uint8Array): number {
  if (fileBytes < LENGTH_PREFIX_BYTES || prefix.length < LENGTH_PREFIX_BYTES) {
    throw checkpointError(file, `has ${fileBytes} bytes, too few for any header; ${FETCH_AGAIN}`);
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, LENGTH_PREFIX_BYTES);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(fileBytes - LENGTH_PREFIX_BYTES)) {
    const found = `its header claims ${length} bytes, but the file has only ${fileBytes}`;
    throw checkpointError(file, `${found}; ${FETCH_AGAIN}, or it is no safetensors file`);
  }
  if (length > BigInt(HEADER_BYTES_MAX)) {
    const found = `its header claims ${length} bytes, above the limit of ${HEADER_BYTES_MAX}`;
    throw checkpointError(file, `${found}; it is no safetensors file`);
  }
  return Number(length);
}

/** The tensors of a file, from its JSON header (the bytes after the length prefix). */
export function parseHeader(file: string, fileBytes: number, header: Uint8Array): TensorIndex {
  const entries = parseJsonObject(file, decodeUtf8(file, header));
  const dataStart = LENGTH_PREFIX_BYTES + header.length;
  const tensors: StoredTensor[] = [];
  for (const [name, entry] of Object.entries(entries)) {
    if (name !== "__metadata__") tensors.push(parseEntry(file, name, entry, dataStart));
  }
  checkLayout(file, fileBytes, dataStart, tensors);
  return new Map(tensors.map((tensor) => [tensor.name, tensor]));
}

function decodeUtf8(file: string, header: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(header);
  } catch (cause) {
    throw checkpointError(file, `its header is not UTF-8 text; ${FETCH_AGAIN}`, cause);
  }
}

function parseEntry(file: string, name: string, entry: unknown, dataStart: number): StoredTensor {
  const place = `${file}: ${name}`;
  if (!isJsonObject(entry)) throw checkpointError(place, `is ${shown(entry)}, not an object`);
  const dtype = parseType(place, entry);
  const shape = wholeNumbers(place, "shape", entry["shape"]);
  const [begin, end, ...rest] = wholeNumbers(place, "data_offsets", entry["data_offsets"]);
  if (begin === undefined || end === undefined || rest.length > 0 || end < begin) {
    const found = `data_offsets is ${shown(entry["data_offsets"])}`;
    throw checkpointError(place, `${found}; it must be [begin, end] with begin <= end`);
  }
  const expected = shape.reduce((product, dim) => product * dim, ELEMENT_BYTES[dtype]);
  if (expected !== end - begin) {
    const found = `dtype ${dtype} and shape [${shape.join(", ")}] need ${expected} bytes`;
    const given = `data_offsets [${begin}, ${end}] hold ${end - begin}`;
    throw checkpointError(place, `${found}, but ${given}; ${FETCH_AGAIN}`);
  }
  return { name, dtype, shape, file, offset: dataStart + begin, length: end - begin };
}

function parseType(place: string, entry: JsonObject): StoredType {
  const dtype = entry["dtype"];
  if (typeof dtype === "string" && Object.hasOwn(ELEMENT_BYTES, dtype)) return dtype as StoredType;
  const known = Object.keys(ELEMENT_BYTES).join(", ");
  throw checkpointError(place, `dtype is ${shown(dtype)}; known types: ${known}`);
}

function wholeNumbers(place: string, key: string, value: unknown): number[] {
  const valid = (item: unknown): item is number => Number.isSafeInteger(item) && Number(item) >= 0;
  if (Array.isArray(value) && value.every(valid)) return value;
  throw checkpointError(place, `${key} is ${shown(value)}; it must be a list of whole numbers`);
}

/** The tensors must cover the data from its first byte to the end of the file, each byte once. */
function checkLayout(
  file: string,
  fileBytes: number,
  dataStart: number,
  tensors: readonly StoredTensor[],
): void {
  let reached = dataStart;
  const ordered = tensors.toSorted((a, b) => a.offset - b.offset || a.length - b.length);
  for (const tensor of ordered) {
    const place = `${file}: ${tensor.name}`;
    const [begin, end] = [tensor.offset - dataStart, tensor.offset - dataStart + tensor.length];
    if (dataStart + end > fileBytes) {
      const found = `data_offsets [${begin}, ${end}] reach beyond the file's ${fileBytes} bytes`;
      throw checkpointError(place, `${found}; ${FETCH_AGAIN}`);
    }
    if (tensor.offset !== reached) {
      const kind = tensor.offset < reached ? "overlaps the tensor before it" : "leaves a gap";
      const found = `data_offsets [${begin}, ${end}] ${kind}`;
      throw checkpointError(place, `${found} (expected ${reached - dataStart}); ${FETCH_AGAIN}`);
    }
    reached += tensor.length;
  }
  if (reached !== fileBytes) {
    const found = `has ${fileBytes - reached} bytes after its last tensor`;
    throw checkpointError(file, `${found}; ${FETCH_AGAIN}`);
  }
}
