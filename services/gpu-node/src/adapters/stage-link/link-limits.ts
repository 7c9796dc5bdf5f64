/**
 * What one side of a stage link lets the other do, and how long it waits for it. Every queue,
 * allocation and wait of the link has its maximum here.
 */
import { type FieldViolation, invalidArgument } from "@fluxline/kernel/error.ts";

export interface LinkLimits {
  /** A header holds names, dimensions and a route. */
  readonly headerBytesMax: number;
  /** Tensors of one frame; a larger one is refused before memory is taken for it. */
  readonly payloadBytesMax: number;
  /** Frames that may be here before their handlers have settled: the credit that we grant. */
  readonly windowFrames: number;
  /** Bytes of headers and payloads that may be here so. */
  readonly windowBytes: number;
  /** Frames, and bytes, that may wait for the peer's credit; `send` refuses what is above. */
  readonly queueFramesMax: number;
  readonly queueBytesMax: number;
  /** A side that has nothing to say says so this often. */
  readonly heartbeatMs: number;
  /** A peer of whom not a byte has come for so long, or who took none, is given up. */
  readonly silenceMsMax: number;
  /** A peer whose handlers settle nothing for so long while a frame waits is given up. */
  readonly creditMsMax: number;
  /** From the first byte of a connection to the end of the handshake. */
  readonly handshakeMsMax: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const HEADER_BYTES_MAX = 512 * KIB;
/**
 * FLUX.1's largest activation at the default batch: 4 rows of 2048x2048, which are 16,384 + 512
 * tokens of 3072 float32 each, have 792 MiB. It bounds what may come; no memory is kept for it.
 */
const PAYLOAD_BYTES_MAX = 1024 * MIB;
const WINDOW_FRAMES = 8;
const FULL_FRAMES_IN_WINDOW = 2;
const FULL_FRAMES_IN_QUEUE = 4;
/** A silent side must have had the chance to say something twice. */
const HEARTBEATS_IN_SILENCE_MIN = 2;

/** Limits with the defaults filled in. Throws INVALID_LINK_LIMITS that names every wrong one. */
export function linkLimits(given: Partial<LinkLimits> = {}): LinkLimits {
  const headerBytesMax = given.headerBytesMax ?? HEADER_BYTES_MAX;
  const payloadBytesMax = given.payloadBytesMax ?? PAYLOAD_BYTES_MAX;
  const frameBytesMax = headerBytesMax + payloadBytesMax;
  const limits: LinkLimits = {
    windowFrames: WINDOW_FRAMES,
    windowBytes: FULL_FRAMES_IN_WINDOW * frameBytesMax,
    queueFramesMax: 256,
    queueBytesMax: FULL_FRAMES_IN_QUEUE * frameBytesMax,
    heartbeatMs: 1_000,
    silenceMsMax: 4_000,
    creditMsMax: 15 * 60_000,
    handshakeMsMax: 5_000,
    ...given,
    headerBytesMax,
    payloadBytesMax,
  };
  const violations: FieldViolation[] = Object.entries(limits)
    .filter(([, value]) => !Number.isSafeInteger(value) || value < 1)
    .map(([field, value]) => ({ field, description: `is ${value}; use a whole number from 1` }));
  const atLeast = (field: keyof LinkLimits, least: number, why: string): void => {
    const value = limits[field];
    if (value >= least) return;
    violations.push({ field, description: `is ${value}; use at least ${least}, ${why}` });
  };
  atLeast("windowBytes", frameBytesMax, "the largest frame, which else could never come");
  atLeast("queueBytesMax", frameBytesMax, "the largest frame, which else could never go");
  atLeast("silenceMsMax", HEARTBEATS_IN_SILENCE_MIN * limits.heartbeatMs, "two heartbeats");
  if (violations.length > 0) throw invalidArgument(violations, "INVALID_LINK_LIMITS");
  return limits;
}
