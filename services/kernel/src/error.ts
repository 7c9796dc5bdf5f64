/**
 * The one error type of Fluxline. It is made where the cause is known, carries what a caller needs
 * to act (field, value, way out), and is mapped once, in an adapter, to a gRPC or HTTP status.
 * Errors are told apart by `code` and `reason`, never by their message.
 */

/** The status codes of gRPC that we use, in lower case. */
export type ErrorCode =
  | "invalid_argument"
  | "failed_precondition"
  | "out_of_range"
  | "not_found"
  | "already_exists"
  | "permission_denied"
  | "unauthenticated"
  | "resource_exhausted"
  | "unavailable"
  | "aborted"
  | "cancelled"
  | "deadline_exceeded"
  | "unimplemented"
  | "data_loss"
  | "internal";

/** One field of a request (or one key of a file) that is wrong, and the way out. */
export interface FieldViolation {
  /** Path of the field as the caller wrote it, like `width` or `scheduler_config.json: shift`. */
  readonly field: string;
  /** Plain English: the value that was wrong, the rule, and a value that would do. */
  readonly description: string;
}

export interface AppErrorOptions {
  /** UPPER_SNAKE_CASE and stable: the `reason` of google.rpc.ErrorInfo. */
  readonly reason?: string;
  readonly retryable?: boolean;
  /** How long to wait before a retry, in milliseconds: google.rpc.RetryInfo. */
  readonly retryAfterMs?: number;
  readonly violations?: readonly FieldViolation[];
  /** Further facts for machines: the `metadata` of google.rpc.ErrorInfo. */
  readonly details?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

export class AppError extends Error {
  override readonly name = "AppError";
  readonly code: ErrorCode;
  readonly reason: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly violations: readonly FieldViolation[];
  readonly details: Readonly<Record<string, string>>;

  constructor(code: ErrorCode, message: string, options: AppErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.reason = options.reason ?? code.toUpperCase();
    this.retryable = options.retryable ?? code === "unavailable";
    this.retryAfterMs = options.retryAfterMs;
    this.violations = options.violations ?? [];
    this.details = options.details ?? {};
  }
}

/** An INVALID_ARGUMENT that names every wrong field at once; the message lists them too. */
export function invalidArgument(
  violations: readonly FieldViolation[],
  reason = "INVALID_REQUEST",
): AppError {
  const message = violations.map((v) => `${v.field}: ${v.description}`).join("; ");
  return new AppError("invalid_argument", message, { reason, violations });
}

/** Whatever was thrown, as an `AppError`; what is not one becomes `internal` with its cause. */
export function toAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return new AppError("internal", message, { cause: thrown });
}

/** The plain form in which an error crosses a process boundary or stands in a record. */
export interface ErrorRecord {
  readonly code: ErrorCode;
  readonly reason: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly violations: readonly FieldViolation[];
  readonly details: Readonly<Record<string, string>>;
}

export function toErrorRecord(thrown: unknown): ErrorRecord {
  const error = toAppError(thrown);
  const { code, reason, message, retryable, violations, details } = error;
  return { code, reason, message, retryable, violations, details };
}

export function fromErrorRecord(record: ErrorRecord): AppError {
  const { code, message, reason, retryable, violations, details } = record;
  return new AppError(code, message, { reason, retryable, violations, details });
}
