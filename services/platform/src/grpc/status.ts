/**
 * AppError <-> google.rpc.Status, in both directions and nowhere else. Over gRPC the Status stands
 * in the trailer `grpc-status-details-bin`; in records and on the bus it stands as a message.
 */
import { Metadata, status as codes, type ServiceError, type StatusObject } from "@grpc/grpc-js";
import { AppError, type ErrorCode, type FieldViolation } from "@fluxline/kernel/error.ts";
import {
  BadRequest,
  ErrorInfo,
  QuotaFailure,
  RetryInfo,
} from "@fluxline/proto/google/rpc/error_details.ts";
import { Status } from "@fluxline/proto/google/rpc/status.ts";

export const errorDomain = "fluxline.dev";
const detailsKey = "grpc-status-details-bin";
const typePrefix = "type.googleapis.com/google.rpc.";

/** Trailers are small (8 KiB is a common limit), so texts in them are too. */
const messageCharsMax = 1_000;
const violationsMax = 12;
const violationCharsMax = 300;
const metadataCharsMax = 200;

const codeNumbers: Record<ErrorCode, codes> = {
  invalid_argument: codes.INVALID_ARGUMENT,
  failed_precondition: codes.FAILED_PRECONDITION,
  out_of_range: codes.OUT_OF_RANGE,
  not_found: codes.NOT_FOUND,
  already_exists: codes.ALREADY_EXISTS,
  permission_denied: codes.PERMISSION_DENIED,
  unauthenticated: codes.UNAUTHENTICATED,
  resource_exhausted: codes.RESOURCE_EXHAUSTED,
  unavailable: codes.UNAVAILABLE,
  aborted: codes.ABORTED,
  cancelled: codes.CANCELLED,
  deadline_exceeded: codes.DEADLINE_EXCEEDED,
  unimplemented: codes.UNIMPLEMENTED,
  data_loss: codes.DATA_LOSS,
  internal: codes.INTERNAL,
};

const codeNames = new Map<number, ErrorCode>(
  (Object.entries(codeNumbers) as [ErrorCode, number][]).map(([name, number]) => [number, name]),
);

export function grpcCode(code: ErrorCode): codes {
  return codeNumbers[code];
}

export function toStatus(error: AppError): Status {
  const metadata = Object.fromEntries(
    Object.entries(error.details).map(([key, value]) => [key, clip(value, metadataCharsMax)]),
  );
  // Kept, so that the error is whole again on the other side.
  if (error.retryable !== (error.code === "unavailable")) {
    metadata["retryable"] = String(error.retryable);
  }
  const details = [
    any("ErrorInfo", ErrorInfo, { reason: error.reason, domain: errorDomain, metadata }),
  ];
  if (error.violations.length > 0) {
    const fieldViolations = error.violations.slice(0, violationsMax).map((violation) => ({
      field: clip(violation.field, metadataCharsMax),
      description: clip(violation.description, violationCharsMax),
      reason: error.reason,
      localizedMessage: undefined,
    }));
    details.push(any("BadRequest", BadRequest, BadRequest.fromPartial({ fieldViolations })));
  }
  if (error.code === "resource_exhausted") {
    const subject = metadata["subject"] ?? "";
    const violations = [{ subject, description: clip(error.message, violationCharsMax) }];
    details.push(any("QuotaFailure", QuotaFailure, QuotaFailure.fromPartial({ violations })));
  }
  if (error.retryAfterMs !== undefined) {
    const seconds = Math.floor(error.retryAfterMs / 1000);
    const nanos = Math.round((error.retryAfterMs - seconds * 1000) * 1e6);
    details.push(any("RetryInfo", RetryInfo, { retryDelay: { seconds: BigInt(seconds), nanos } }));
  }
  const message = clip(error.message, messageCharsMax);
  return { code: codeNumbers[error.code], message, details };
}

export function fromStatus(status: Status): AppError {
  let info: ErrorInfo | undefined;
  let violations: readonly FieldViolation[] = [];
  let retryAfterMs: number | undefined;
  for (const detail of status.details) {
    switch (detail.typeUrl.slice(typePrefix.length)) {
      case "ErrorInfo":
        info = ErrorInfo.decode(detail.value);
        break;
      case "BadRequest":
        violations = BadRequest.decode(detail.value).fieldViolations.map(
          ({ field, description }) => ({ field, description }),
        );
        break;
      case "RetryInfo": {
        const delay = RetryInfo.decode(detail.value).retryDelay;
        if (delay) retryAfterMs = Number(delay.seconds) * 1000 + delay.nanos / 1e6;
        break;
      }
      default:
        break;
    }
  }
  const { retryable, ...details } = info?.metadata ?? {};
  return new AppError(codeNames.get(status.code) ?? "internal", status.message, {
    ...(info ? { reason: info.reason } : {}),
    ...(retryable === undefined ? {} : { retryable: retryable === "true" }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    violations,
    details,
  });
}

/** What a grpc-js server handler answers with. */
export function toServiceError(error: AppError): Partial<StatusObject> {
  const metadata = new Metadata();
  const status = toStatus(error);
  metadata.set(detailsKey, Buffer.from(Status.encode(status).finish()));
  return { code: status.code, details: status.message, metadata };
}

/** What a grpc-js client caught. */
export function fromServiceError(error: ServiceError): AppError {
  const [bytes] = error.metadata?.get(detailsKey) ?? [];
  if (bytes instanceof Buffer) return fromStatus(Status.decode(bytes));
  return new AppError(codeNames.get(error.code) ?? "internal", error.details || error.message, {
    cause: error,
  });
}

function any<T>(
  name: string,
  codec: { encode(message: T): { finish(): Uint8Array } },
  message: T,
): { typeUrl: string; value: Buffer } {
  return { typeUrl: typePrefix + name, value: Buffer.from(codec.encode(message).finish()) };
}

function clip(text: string, charsMax: number): string {
  if (text.length <= charsMax) return text;
  return `${text.slice(0, charsMax - 1)}…`;
}
