/**
 * The frame in which a driver and its runner exchange messages over a byte stream:
 *
 *   magic "FLX1" u32 | header bytes u32 | payload bytes u64 | header: JSON | payload: raw bytes
 *
 * Numbers are little-endian. The payload is gathered into one buffer of its own, and tensors in it
 * begin at multiples of 8, so that typed arrays can be laid over it without a copy.
 */
import { AppError } from "@fluxline/kernel/error.ts";

const MAGIC = 0x31584c46;
const PREFIX_BYTES = 16;
export const ALIGNMENT_BYTES = 8;
/** A header holds names and dimensions only. */
export const HEADER_BYTES_MAX = 4 * 1024 * 1024;
export const PAYLOAD_BYTES_MAX = 8 * 1024 * 1024 * 1024;

export interface Frame {
  readonly header: unknown;
  readonly payload: Uint8Array;
}

export function alignedBytes(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
}

/** The pieces to write, in order; `parts` are sent as they are, each padded to the alignment. */
export function frameChunks(header: unknown, parts: readonly Uint8Array[]): Uint8Array[] {
  const headerBytes = Buffer.from(JSON.stringify(header));
  const payloadBytes = parts.reduce((sum, part) => sum + alignedBytes(part.byteLength), 0);
  const prefix = Buffer.allocUnsafe(PREFIX_BYTES);
  prefix.writeUInt32LE(MAGIC, 0);
  prefix.writeUInt32LE(headerBytes.length, 4);
  prefix.writeBigUInt64LE(BigInt(payloadBytes), 8);
  const chunks: Uint8Array[] = [Buffer.concat([prefix, headerBytes])];
  for (const part of parts) {
    chunks.push(part);
    const padding = alignedBytes(part.byteLength) - part.byteLength;
    if (padding > 0) chunks.push(new Uint8Array(padding));
  }
  return chunks;
}

/** Cuts a byte stream into frames. Throws an AppError when the stream is not one of frames. */
export class FrameReader {
  #pending: Buffer = Buffer.alloc(0);
  #header: unknown;
  #payload: Uint8Array | undefined;
  #filled = 0;

  push(chunk: Buffer): Frame[] {
    const frames: Frame[] = [];
    let rest = chunk;
    while (true) {
      if (this.#payload === undefined) {
        this.#pending = this.#pending.length === 0 ? rest : Buffer.concat([this.#pending, rest]);
        rest = Buffer.alloc(0);
        const begun = this.#begin();
        if (begun === undefined) return frames;
        rest = begun;
      }
      const taken = this.#fill(rest);
      rest = rest.subarray(taken);
      if (this.#payload === undefined || this.#filled < this.#payload.length) return frames;
      frames.push({ header: this.#header, payload: this.#payload });
      this.#payload = undefined;
      if (rest.length === 0) return frames;
    }
  }

  /** Reads prefix and header once they are complete; returns the bytes that follow them. */
  #begin(): Buffer | undefined {
    const pending = this.#pending;
    if (pending.length < PREFIX_BYTES) return undefined;
    const headerBytes = pending.readUInt32LE(4);
    const payloadBytes = Number(pending.readBigUInt64LE(8));
    if (pending.readUInt32LE(0) !== MAGIC) throw broken("it does not begin with the magic number");
    if (headerBytes > HEADER_BYTES_MAX) throw broken(`its header has ${headerBytes} bytes`);
    if (payloadBytes > PAYLOAD_BYTES_MAX) throw broken(`its payload has ${payloadBytes} bytes`);
    const end = PREFIX_BYTES + headerBytes;
    if (pending.length < end) return undefined;
    this.#header = parseHeader(pending.subarray(PREFIX_BYTES, end));
    this.#payload = new Uint8Array(payloadBytes);
    this.#filled = 0;
    this.#pending = Buffer.alloc(0);
    return pending.subarray(end);
  }

  #fill(bytes: Buffer): number {
    if (this.#payload === undefined) return 0;
    const taken = Math.min(bytes.length, this.#payload.length - this.#filled);
    this.#payload.set(bytes.subarray(0, taken), this.#filled);
    this.#filled += taken;
    return taken;
  }
}

function parseHeader(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    throw broken("its header is not JSON", cause);
  }
}

function broken(what: string, cause?: unknown): AppError {
  return new AppError("data_loss", `a runner frame is broken: ${what}`, {
    reason: "BROKEN_FRAME",
    cause,
  });
}
