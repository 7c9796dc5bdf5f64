import { describe, expect, test } from "vitest";
import { hubError } from "./hub-error.ts";
import { decideRetry, RETRY_AFTER_MS_MAX, retryAfterMs } from "./hub-retry.ts";

const failure = (retryable: boolean, afterMs?: number) =>
  hubError("unavailable", "X", "x", { retryable, retryAfterMs: afterMs });

const limits = { triesMax: 6, firstDelayMs: 500 };

describe("a failed request is", () => {
  test.each([
    ["tried again soon", failure(true), 1, 0, { kind: "retry", delayMs: 250 }],
    ["tried again later each time", failure(true), 4, 0, { kind: "retry", delayMs: 2000 }],
    ["spread by chance", failure(true), 1, 0.99, { kind: "retry", delayMs: 498 }],
    ["never tried again for ever", failure(true), 6, 0, { kind: "give-up" }],
    ["not tried again when that would not help", failure(false), 1, 0, { kind: "give-up" }],
    [
      "tried again when the hub says so",
      failure(true, 7000),
      1,
      0,
      { kind: "retry", delayMs: 7000 },
    ],
    [
      "given up when the hub asks for too long a wait",
      failure(true, RETRY_AFTER_MS_MAX + 1),
      1,
      0,
      { kind: "give-up" },
    ],
  ])("%s", (_, error, failures, chance, expected) => {
    expect(decideRetry(error, failures, chance, limits)).toEqual(expected);
  });
});

describe("Retry-After", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  test.each([
    ["seconds", "3", 3000],
    ["a date", "Thu, 01 Jan 2026 00:00:05 GMT", 5000],
    ["a date that is over", "Wed, 31 Dec 2025 00:00:00 GMT", 0],
    ["nonsense", "soon", undefined],
    ["nothing", null, undefined],
  ])("as %s", (_, header, expected) => {
    expect(retryAfterMs(header, now)).toBe(expected);
  });
});
