/**
 * The frame in which processes of a replica group exchange messages over a byte stream: a driver
 * and its device runner over a pipe, driver and stages over the stage link.
 *
 *   0  magic "FLXL" u32 | 4 version u8 | 5 kind u8 | 6 flags u16 | 8 header bytes u32
 *   12 header checksum u32 | 16 payload bytes u64 | 24 payload checksum u32 | 28 checksum of 0..27
 *   32 header: JSON | payload: raw bytes
 *
 * Numbers are little-endian, checksums CRC-32 (zlib); the payload has one if flag 1 is set. Lengths
 * are checked before memory is taken for them. The payload gets one buffer of its own, and tensors
 * in it begin at multiples of 8, so that typed arrays can be laid over it without a copy.
 */
import { crc32 } from "node:zlib";
import { AppError } from "@fluxline/kernel/error.ts";

const MAGIC = 0x4c584c46;
const VERSION = 1;
const FLAG_PAYLOAD_CHECKSUM = 1;
export const PREFIX_BYTES = 32;
export const ALIGNMENT_BYTES = 8;
/** Below this a frame is gathered into one write; above, its parts are written as they are. */
const GATHER_BYTES_MAX = 16 * 1024;

/** A message of the users of a stream; other kinds belong to the stage link. */
export const MESSAGE_KIND = 0;

export interface FrameLimits {
  readonly headerBytesMax: number;
  readonly payloadBytesMax: number;
}

export interface FramePrefix {
  readonly kind: number;
  readonly headerBytes: number;
  readonly payloadBytes: number;
}

export interface Frame {
  readonly kind: number;
  /** `undefined` when the frame has none. */
  readonly header: unknown;
  /** Begins at a multiple of 8 of its buffer, which nothing else uses. */
  readonly payload: Uint8Array;
}

export interface FrameSink {
  readonly limits: FrameLimits;
  /** Before memory is taken for header and payload; what it throws ends the reading. */
  onPrefix?(prefix: FramePrefix): void;
  onFrame(frame: Frame): void;
}

export function alignedBytes(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
}

export interface FrameOptions {
  readonly kind?: number;
  /** For streams that nothing else guards: neither TLS nor one machine's memory. */
  readonly payloadChecksum?: boolean;
}

/**
 * The pieces to write, in order; `parts` are sent as they are, each padded to the alignment. A
 * `header` of `undefined` takes no bytes.
 */
export function frameChunks(
  header: unknown,
  parts: readonly Uint8Array[],
  options: FrameOptions = {},
): Uint8Array[] {
  const headerBytes = header === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(header));
  const padded = parts.flatMap((part) => {
    const padding = alignedBytes(part.byteLength) - part.byteLength;
    return padding === 0 ? [part] : [part, new Uint8Array(padding)];
  });
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32LE(MAGIC, 0);
  prefix.writeUInt8(VERSION, 4);
  prefix.writeUInt8(options.kind ?? MESSAGE_KIND, 5);
  prefix.writeUInt32LE(headerBytes.length, 8);
  prefix.writeUInt32LE(crc32(headerBytes), 12);
  prefix.writeBigUInt64LE(BigInt(byteLengthOf(padded)), 16);
  if (options.payloadChecksum === true) {
    prefix.writeUInt16LE(FLAG_PAYLOAD_CHECKSUM, 6);
    const checksum = padded.reduce((sum, part) => crc32(part, sum), 0);
    prefix.writeUInt32LE(checksum, 24);
  }
  prefix.writeUInt32LE(crc32(prefix.subarray(0, 28)), 28);
  const chunks = [prefix, headerBytes, ...padded];
  const isSmall = byteLengthOf(chunks) <= GATHER_BYTES_MAX;
  return isSmall ? [Buffer.concat(chunks)] : [Buffer.concat([prefix, headerBytes]), ...padded];
}

export function byteLengthOf(chunks: readonly Uint8Array[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
}

interface PrefixRead extends FramePrefix {
  readonly headerChecksum: number;
  /** `undefined` if the frame carries none. */
  readonly payloadChecksum: number | undefined;
}

/** Cuts a byte stream into frames. */
export class FrameReader {
  /** Who takes the frames; another may take over between two frames, in the middle of a `push`. */
  sink: FrameSink;
  readonly #prefixBytes = Buffer.alloc(PREFIX_BYTES);
  #prefix: PrefixRead | undefined;
  #header: { readonly value: unknown } | undefined;
  /** What is being filled: prefix, header or payload. */
  #target: Buffer = this.#prefixBytes;
  #filled = 0;

  constructor(sink: FrameSink) {
    this.sink = sink;
  }

  /** The stream may not end here: a frame is incomplete. */
  get isInFrame(): boolean {
    return this.#filled > 0 || this.#prefix !== undefined;
  }

  /** Throws an AppError when the stream is not one of frames, or the sink does. */
  push(chunk: Buffer): void {
    let rest = chunk;
    while (rest.length > 0) {
      const taken = rest.copy(this.#target, this.#filled);
      this.#filled += taken;
      rest = rest.subarray(taken);
      if (this.#filled === this.#target.length) this.#advance();
    }
  }

  /** The target is full: goes on to the next part of the frame that has bytes, or hands it over. */
  #advance(): void {
    const full = this.#target;
    this.#filled = 0;
    if (this.#prefix === undefined) {
      const prefix = readPrefix(this.#prefixBytes);
      checkLength("header", prefix.headerBytes, this.sink.limits.headerBytesMax);
      checkLength("payload", prefix.payloadBytes, this.sink.limits.payloadBytesMax);
      this.sink.onPrefix?.(prefix);
      this.#prefix = prefix;
      this.#target = Buffer.allocUnsafeSlow(prefix.headerBytes);
      if (prefix.headerBytes > 0) return;
    }
    const prefix = this.#prefix;
    if (this.#header === undefined) {
      this.#header = { value: parseHeader(this.#target, prefix.headerChecksum) };
      // Every byte of it is written before it is handed over, so it need not be cleared first.
      this.#target = Buffer.allocUnsafeSlow(prefix.payloadBytes);
      if (prefix.payloadBytes > 0) return;
    }
    const payload = prefix.payloadBytes > 0 ? full : this.#target;
    const { kind, payloadChecksum } = prefix;
    if (payloadChecksum !== undefined) checkSum("payload", payload, payloadChecksum);
    const frame = { kind, header: this.#header.value, payload };
    this.#prefix = undefined;
    this.#header = undefined;
    this.#target = this.#prefixBytes;
    this.sink.onFrame(frame);
  }
}

function readPrefix(bytes: Buffer): PrefixRead {
  if (bytes.readUInt32LE(0) !== MAGIC) {
    throw frameError("FRAME_MAGIC", `it begins with ${bytes.toString("hex", 0, 4)}, not "FLXL"`);
  }
  const version = bytes.readUInt8(4);
  if (version !== VERSION) {
    const what = `its format is version ${version} and this side reads ${VERSION}; use one release`;
    throw frameError("FRAME_VERSION", what, false);
  }
  checkSum("prefix", bytes.subarray(0, 28), bytes.readUInt32LE(28));
  const flags = bytes.readUInt16LE(6);
  if ((flags & ~FLAG_PAYLOAD_CHECKSUM) !== 0) {
    throw frameError("FRAME_VERSION", `it has the unknown flags ${flags}; use one release`, false);
  }
  const hasChecksum = (flags & FLAG_PAYLOAD_CHECKSUM) !== 0;
  return {
    kind: bytes.readUInt8(5),
    headerBytes: bytes.readUInt32LE(8),
    headerChecksum: bytes.readUInt32LE(12),
    payloadBytes: Number(bytes.readBigUInt64LE(16)),
    payloadChecksum: hasChecksum ? bytes.readUInt32LE(24) : undefined,
  };
}

function checkLength(part: string, bytes: number, bytesMax: number): void {
  if (bytes <= bytesMax) return;
  throw frameError(
    "FRAME_TOO_LARGE",
    `its ${part} has ${bytes} bytes; at most ${bytesMax} may come`,
  );
}

function checkSum(part: string, bytes: Buffer, expected: number): void {
  const found = crc32(bytes);
  if (found === expected) return;
  const what = `the checksum of its ${part} is ${found} and should be ${expected}`;
  throw frameError("FRAME_CORRUPT", what);
}

function parseHeader(bytes: Buffer, checksum: number): unknown {
  checkSum("header", bytes, checksum);
  if (bytes.length === 0) return undefined;
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    throw frameError("FRAME_CORRUPT", "its header is not JSON", true, cause);
  }
}

function frameError(reason: string, what: string, retryable = true, cause?: unknown): AppError {
  return new AppError("data_loss", `a frame is broken: ${what}`, { reason, retryable, cause });
}
