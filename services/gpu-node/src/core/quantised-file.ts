/**
 * The file that holds the quantised linear layers of one block of a network: a .safetensors file
 * whose layout follows from the shapes alone, so that a graph can point into it before it exists.
 * Any stage plan is made of whole blocks, so a file serves every plan.
 *
 *   0        8          16384                                             bytes
 *   | n: u64 | header   | codes of a | scales of a | codes of b | ...         |
 *
 * The header has a checksum over all that follows it, filled in last. A file is sound when its header
 * is the expected one, its size is right and its checksum agrees. It is there to find what a crash or
 * a bad disk has done, at each start, so it is a quick one (CRC-32), no digest.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import {
  codeBytes,
  quantisationBlocks,
  QUANTISATION_BLOCK,
  QUANTISATION_SCHEME,
  scaleBytes,
} from "./quantisation.ts";
import { LENGTH_PREFIX_BYTES, type StoredTensor } from "./safetensors.ts";

/** Where the data begins in every file: at the start of a page. */
export const QUANTISED_DATA_START = 16_384;
/** One linear layer's weight: what it is made from, and where it comes to lie. */
export interface QuantisedTensor {
  /** [outputs, inputs] in float32, float16 or bfloat16. */
  readonly source: StoredTensor;
  readonly outputs: number;
  readonly inputs: number;
  /** From the start of the file: uint8 [outputs, blocks, 128]. */
  readonly codesOffset: number;
  /** From the start of the file: float32 [outputs, blocks]. */
  readonly scalesOffset: number;
}

export interface QuantisedFile {
  /** Absolute path. */
  readonly file: string;
  /** Digest of the model that it is made from. */
  readonly model: string;
  readonly bytes: number;
  readonly tensors: readonly QuantisedTensor[];
}

/** Where the quantised files of a model lie, on every machine with that cache. */
export interface QuantisedPlace {
  /** Absolute path. */
  readonly folder: string;
  /** Digest of the model. */
  readonly model: string;
}

/** Lays out one file, weight by weight. */
export class QuantisedFileLayout {
  readonly #place: QuantisedPlace;
  readonly #name: string;
  readonly #tensors = new Map<string, QuantisedTensor>();
  #end = QUANTISED_DATA_START;

  /** `name` says which block it is: `transformer.double.3`. */
  constructor(place: QuantisedPlace, name: string) {
    this.#place = place;
    this.#name = name;
  }

  get path(): string {
    const { folder, model } = this.#place;
    return `${folder}/${model}/${this.#name}.${QUANTISATION_SCHEME}.safetensors`;
  }

  /** A weight's place; the same one when it is asked for again. */
  add(source: StoredTensor, outputs: number, inputs: number): QuantisedTensor {
    const known = this.#tensors.get(source.name);
    if (known !== undefined) return known;
    const codesOffset = this.#end;
    const scalesOffset = codesOffset + codeBytes(outputs, inputs);
    this.#end = scalesOffset + scaleBytes(outputs, inputs);
    const tensor = { source, outputs, inputs, codesOffset, scalesOffset };
    this.#tensors.set(source.name, tensor);
    return tensor;
  }

  finish(): QuantisedFile {
    const { model } = this.#place;
    return { file: this.path, model, bytes: this.#end, tensors: [...this.#tensors.values()] };
  }
}

/**
 * The first 16384 bytes of the file.
 *
 * @param checksum CRC-32 over all that follows
 */
export function quantisedHeader({ model, tensors }: QuantisedFile, checksum: number): Uint8Array {
  const entries: Record<string, unknown> = {
    __metadata__: {
      format: "fluxline",
      scheme: QUANTISATION_SCHEME,
      model,
      crc32: String(checksum),
    },
  };
  for (const { source, outputs, inputs, codesOffset, scalesOffset } of tensors) {
    const shape = [outputs, quantisationBlocks(inputs)];
    const from = codesOffset - QUANTISED_DATA_START;
    const middle = scalesOffset - QUANTISED_DATA_START;
    const to = middle + scaleBytes(outputs, inputs);
    const codes = { dtype: "U8", shape: [...shape, QUANTISATION_BLOCK] };
    entries[`${source.name}.codes`] = { ...codes, data_offsets: [from, middle] };
    entries[`${source.name}.scales`] = { dtype: "F32", shape, data_offsets: [middle, to] };
  }
  const json = new TextEncoder().encode(JSON.stringify(entries));
  const room = QUANTISED_DATA_START - LENGTH_PREFIX_BYTES;
  assert(json.length <= room, `a header of ${json.length} bytes`);
  const bytes = new Uint8Array(QUANTISED_DATA_START).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(room), true);
  bytes.set(json, LENGTH_PREFIX_BYTES);
  return bytes;
}

/** The checksum that a header names, or undefined if it is not this file's header. */
export function readQuantisedChecksum(file: QuantisedFile, header: Uint8Array): number | undefined {
  const text = new TextDecoder().decode(header);
  const checksum = /"crc32":"(\d{1,10})"/.exec(text)?.[1];
  if (checksum === undefined) return undefined;
  const expected = quantisedHeader(file, Number(checksum));
  const same =
    expected.length === header.length && expected.every((byte, at) => byte === header[at]);
  return same ? Number(checksum) : undefined;
}
