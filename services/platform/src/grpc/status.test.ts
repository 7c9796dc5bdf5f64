import { Metadata, status as codes, type ServiceError } from "@grpc/grpc-js";
import { describe, expect, test } from "vitest";
import {
  AppError,
  type ErrorCode,
  invalidArgument,
  toErrorRecord,
} from "@fluxline/kernel/error.ts";
import { QuotaFailure } from "@fluxline/proto/google/rpc/error_details.ts";
import { fromServiceError, fromStatus, toServiceError, toStatus } from "./status.ts";

function roundTrip(error: AppError): AppError {
  const answer = toServiceError(error);
  return fromServiceError(Object.assign(new Error("x"), answer) as ServiceError);
}

describe("an AppError over the wire and back", () => {
  test.each<[string, AppError]>([
    ["with violations", invalidArgument([{ field: "width", description: "is 7; use 16" }])],
    [
      "with a time to wait",
      new AppError("resource_exhausted", "full", {
        reason: "QUEUE_FULL",
        retryable: true,
        retryAfterMs: 2_500,
        details: { subject: "pools/p", limit: "3" },
      }),
    ],
    [
      "that is not retryable although unavailable",
      new AppError("unavailable", "x", {
        retryable: false,
      }),
    ],
    ["with signs beyond ASCII", new AppError("not_found", "kein Bild \u201efoo\u201c")],
  ])("%s", (_, error) => {
    const back = roundTrip(error);
    expect(toErrorRecord(back)).toEqual(toErrorRecord(error));
    expect(back.retryAfterMs).toBe(error.retryAfterMs);
  });

  test("every code keeps its name", () => {
    const all: ErrorCode[] = [
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
    for (const code of all) expect(fromStatus(toStatus(new AppError(code, "m"))).code).toBe(code);
  });

  test("RESOURCE_EXHAUSTED carries a QuotaFailure with its subject", () => {
    const error = new AppError("resource_exhausted", "full", { details: { subject: "pools/p" } });
    const detail = toStatus(error).details.find(({ typeUrl }) => typeUrl.endsWith("QuotaFailure"));
    const failure = QuotaFailure.decode(detail?.value ?? Buffer.of());
    expect(failure.violations).toMatchObject([{ subject: "pools/p", description: "full" }]);
  });

  test("a very long error still fits a trailer", () => {
    const violations = Array.from({ length: 100 }, (_, i) => ({
      field: `f${i}`,
      description: "x".repeat(5_000),
    }));
    const { metadata } = toServiceError(invalidArgument(violations));
    const [bytes] = metadata?.get("grpc-status-details-bin") ?? [];
    expect((bytes as Buffer).length).toBeLessThan(6_000);
  });

  test("an error of another server keeps its code and text", () => {
    const foreign = Object.assign(new Error("14 UNAVAILABLE: gone"), {
      code: codes.UNAVAILABLE,
      details: "gone",
      metadata: new Metadata(),
    });
    expect(fromServiceError(foreign)).toMatchObject({ code: "unavailable", message: "gone" });
  });
});
