/**
 * What the two ends of a stage link say to each other besides their users' frames: small frames of
 * a kind of their own, without a payload.
 *
 *   hello, accept, refuse   handshake
 *   credit                  handlers have settled: {frames, bytes}
 *   heartbeat               no header: nothing else was to be said
 *   bye                     the last frame: why this side ends the link
 */
import { z } from "zod";
import {
  AppError,
  type ErrorCode,
  type ErrorRecord,
  fromErrorRecord,
  toErrorRecord,
} from "@fluxline/kernel/error.ts";
import { type Frame, frameChunks, MESSAGE_KIND } from "../frame.ts";

export const LINK_KINDS = {
  message: MESSAGE_KIND,
  hello: 1,
  accept: 2,
  refuse: 3,
  credit: 4,
  heartbeat: 5,
  bye: 6,
} as const;

/** Of every kind but `message`. */
export const CONTROL_BYTES_MAX = 64 * 1024;
const TEXT_LENGTH_MAX = 200;
const ERROR_TEXT_LENGTH_MAX = 2_000;
const VIOLATIONS_MAX = 16;

const text = z.string().max(TEXT_LENGTH_MAX);
const count = z.number().int().min(0);
const positive = z.number().int().min(1);

const protocolSchema = z.object({ protocol: z.object({ min: positive, max: positive }) });

const helloSchema = protocolSchema.extend({
  identity: z.object({
    role: z.enum(["driver", "stage"]),
    pool: text,
    group: text,
    incarnation: text,
    rank: count,
    stages: positive,
    planDigest: text,
    modelDigest: text,
    numericsClass: z.string().max(ERROR_TEXT_LENGTH_MAX),
  }),
  limits: z.object({
    headerBytesMax: positive,
    payloadBytesMax: positive,
    windowFrames: positive,
    windowBytes: positive,
    heartbeatMs: positive,
  }),
});

/** Who a side is, and what it takes. */
export type Hello = z.infer<typeof helloSchema>;

const creditSchema = z.object({ frames: positive, bytes: count });

const codes: readonly ErrorCode[] = [
  "invalid_argument",
  "failed_precondition",
  "out_of_range",
  "not_found",
  "already_exists",
  "permission_denied",
  "unauthenticated",
  "resource_exhausted",
  "unavailable",
  "aborted",
  "cancelled",
  "deadline_exceeded",
  "unimplemented",
  "data_loss",
  "internal",
];

const errorText = z.string().max(ERROR_TEXT_LENGTH_MAX);
const errorSchema = z.object({
  code: z.enum(codes),
  reason: text,
  message: errorText,
  retryable: z.boolean(),
  violations: z.array(z.object({ field: text, description: errorText })).max(VIOLATIONS_MAX),
});

export function controlFrame(kind: keyof typeof LINK_KINDS, header?: unknown): Uint8Array {
  return Buffer.concat(frameChunks(header, [], { kind: LINK_KINDS[kind] }));
}

/** Of `refuse` and `bye`; long texts are cut, so that it always fits. */
export function errorFrame(kind: "refuse" | "bye", error: AppError): Uint8Array {
  const { code, reason, message, retryable, violations } = toErrorRecord(error);
  const cut = (long: string, lengthMax: number): string => long.slice(0, lengthMax);
  const record: z.infer<typeof errorSchema> = {
    code,
    reason: cut(reason, TEXT_LENGTH_MAX),
    message: cut(message, ERROR_TEXT_LENGTH_MAX / 2),
    retryable,
    violations: violations.slice(0, VIOLATIONS_MAX / 2).map(({ field, description }) => ({
      field: cut(field, TEXT_LENGTH_MAX),
      description: cut(description, ERROR_TEXT_LENGTH_MAX / 4),
    })),
  };
  return controlFrame(kind, record);
}

export function readProtocol(frame: Frame): Hello["protocol"] {
  return read(frame, "hello", protocolSchema).protocol;
}

export function readHello(frame: Frame): Hello {
  return read(frame, "hello", helloSchema);
}

export function readCredit(frame: Frame): { frames: number; bytes: number } {
  return read(frame, "credit", creditSchema);
}

/** The error that the peer has sent. */
export function readError(frame: Frame): AppError {
  const record: ErrorRecord = { ...read(frame, "error", errorSchema), details: {} };
  return fromErrorRecord(record);
}

function read<T>(frame: Frame, what: string, schema: z.ZodType<T>): T {
  const result = schema.safeParse(frame.header);
  if (result.success) return result.data;
  const issues = result.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw violation(`its ${what} is not one: ${issues.join("; ")}`);
}

export function violation(what: string): AppError {
  return new AppError("data_loss", `the peer does not keep to the stage link's rules: ${what}`, {
    reason: "PROTOCOL_VIOLATION",
    retryable: true,
  });
}
