/**
 * Checks and makes the files of quantised weights (core/quantised-file.ts). Synchronous, and run in
 * worker threads; of a tensor only a slice is in memory at a time. A file appears whole or not at
 * all: it is written under another name, brought to the disk, and renamed.
 */
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import { assert } from "@fluxline/kernel/assert.ts";
import { checkpointError } from "../../core/checkpoint-error.ts";
import { quantisationBlocks, QUANTISATION_BLOCK, quantiseRows } from "../../core/quantisation.ts";
import {
  QUANTISED_DATA_START,
  type QuantisedFile,
  quantisedHeader,
  type QuantisedTensor,
  readQuantisedChecksum,
} from "../../core/quantised-file.ts";
import type { StoredTensor, StoredType } from "../../core/safetensors.ts";
import { decodeFloats, FLOAT_BYTES } from "../../onnx/float-bits.ts";
import type { RunType } from "../../onnx/graph.ts";
import { makeFolder } from "./make-folder.ts";

/** Values of a tensor that are in memory at a time, about: 8 MiB as float32. */
const SLICE_VALUES = 2 ** 21;
const CHECK_BYTES = 4 * 2 ** 20;

const FLOATS: Partial<Record<StoredType, RunType>> = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
};

export type Soundness = "sound" | "missing" | "damaged";

/** Reads the whole file: its checksum is over every byte. */
export function checkQuantisedFile(file: QuantisedFile): Soundness {
  let descriptor: number;
  try {
    descriptor = openSync(file.file, "r");
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return "missing";
    throw thrown;
  }
  try {
    if (fstatSync(descriptor).size !== file.bytes) return "damaged";
    const header = new Uint8Array(QUANTISED_DATA_START);
    if (!readWhole(descriptor, header, 0)) return "damaged";
    const expected = readQuantisedChecksum(file, header);
    let checksum = 0;
    const buffer = new Uint8Array(CHECK_BYTES);
    for (let at = QUANTISED_DATA_START; at < file.bytes; at += CHECK_BYTES) {
      const part = buffer.subarray(0, Math.min(CHECK_BYTES, file.bytes - at));
      if (!readWhole(descriptor, part, at)) return "damaged";
      checksum = crc32(part, checksum);
    }
    return checksum === expected ? "sound" : "damaged";
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Makes the file, by way of `draft`.
 *
 * @throws AppError CHECKPOINT_INVALID naming a tensor that cannot be quantised, or what the file
 *   system throws; nothing is left then
 */
export function writeQuantisedFile(file: QuantisedFile, draft: string): void {
  makeFolder(dirname(file.file));
  const descriptor = openSync(draft, "wx");
  try {
    try {
      let checksum = 0;
      for (const tensor of file.tensors) {
        writeTensor(tensor, (bytes, at) => {
          checksum = crc32(bytes, checksum);
          writeWhole(descriptor, bytes, at);
        });
      }
      writeWhole(descriptor, quantisedHeader(file, checksum), 0);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(draft, file.file);
  } catch (thrown) {
    rmSync(draft, { force: true });
    throw thrown;
  }
}

/** Hands on codes, then scales, in the order of the file. */
function writeTensor(
  tensor: QuantisedTensor,
  write: (bytes: Uint8Array, at: number) => void,
): void {
  const { source, outputs, inputs, codesOffset, scalesOffset } = tensor;
  const type = FLOATS[source.dtype];
  assert(type !== undefined, `${source.name} is stored as ${source.dtype}`);
  const blocks = quantisationBlocks(inputs);
  const scales = new Float32Array(outputs * blocks);
  const rowsAtOnce = Math.min(outputs, Math.max(1, Math.floor(SLICE_VALUES / inputs)));
  const stored = new Uint8Array(rowsAtOnce * inputs * FLOAT_BYTES[type]);
  const values = new Float32Array(rowsAtOnce * inputs);
  const codes = new Uint8Array(rowsAtOnce * blocks * QUANTISATION_BLOCK);
  const descriptor = openSync(source.file, "r");
  try {
    for (let row = 0; row < outputs; row += rowsAtOnce) {
      const rows = Math.min(rowsAtOnce, outputs - row);
      const bytes = stored.subarray(0, rows * inputs * FLOAT_BYTES[type]);
      const offset = source.offset + row * inputs * FLOAT_BYTES[type];
      if (!readWhole(descriptor, bytes, offset)) throw shortError(source);
      const slice = values.subarray(0, rows * inputs);
      decodeFloats(type, bytes, slice);
      const sliceCodes = codes.subarray(0, rows * blocks * QUANTISATION_BLOCK);
      const sliceScales = scales.subarray(row * blocks, (row + rows) * blocks);
      const wrong = quantiseRows(slice, inputs, sliceCodes, sliceScales);
      if (wrong >= 0) throw notFiniteError(source, row + Math.floor(wrong / inputs));
      write(sliceCodes, codesOffset + row * blocks * QUANTISATION_BLOCK);
    }
  } finally {
    closeSync(descriptor);
  }
  write(new Uint8Array(scales.buffer), scalesOffset);
}

/** False when the file ends before. */
function readWhole(descriptor: number, into: Uint8Array, position: number): boolean {
  for (let read = 0; read < into.length;) {
    const count = readSync(descriptor, into, read, into.length - read, position + read);
    if (count === 0) return false;
    read += count;
  }
  return true;
}

function writeWhole(descriptor: number, bytes: Uint8Array, position: number): void {
  for (let written = 0; written < bytes.length;) {
    const left = bytes.length - written;
    written += writeSync(descriptor, bytes, written, left, position + written);
  }
}

function shortError({ file, name }: StoredTensor): Error {
  return checkpointError(`${file}: ${name}`, "the file ends before it; fetch it again");
}

function notFiniteError({ file, name }: StoredTensor, row: number): Error {
  const found = `row ${row} has a value that is infinite or no number`;
  return checkpointError(`${file}: ${name}`, `${found}, which int8 cannot hold; use float32`);
}
