/** JetStream's errors as AppErrors: told apart by code, never by message. */
import { JetStreamApiCodes, JetStreamApiError } from "@nats-io/jetstream";
import { AppError } from "@fluxline/kernel/error.ts";

/** Error codes of the JetStream API (server/errors.json of nats-server). */
const wrongLastSequence = new Set([10071, 10164]);
const storeFull = new Set([10023, 10047, 10077, 10110, 10122]);
const unavailableRetryMs = 1_000;
/** Room is made when jobs expire, or by hand. */
const fullRetryMs = 30_000;
const tooLarge = new Set([10054]);

export function isConflict(thrown: unknown): boolean {
  return thrown instanceof JetStreamApiError && wrongLastSequence.has(thrown.code);
}

/** True when the server answered: what was asked for was certainly not done. */
export function isAnswer(thrown: unknown): boolean {
  return thrown instanceof JetStreamApiError;
}

export function isMissing(thrown: unknown): boolean {
  return thrown instanceof JetStreamApiError && thrown.code === JetStreamApiCodes.StreamNotFound;
}

export function storeError(store: string, thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  const why = thrown instanceof Error ? thrown.message : String(thrown);
  const options = { cause: thrown, details: { store } };
  if (isMissing(thrown)) {
    return new AppError("failed_precondition", `store "${store}" is not there: start a scheduler`, {
      ...options,
      reason: "STORE_MISSING",
    });
  }
  if (thrown instanceof JetStreamApiError && storeFull.has(thrown.code)) {
    return new AppError(
      "resource_exhausted",
      `store "${store}" takes no more (${why}): free space where NATS keeps its data, or raise ` +
        "the limit of the store",
      { ...options, reason: "STORE_FULL", retryable: true, retryAfterMs: fullRetryMs },
    );
  }
  if (thrown instanceof JetStreamApiError && tooLarge.has(thrown.code)) {
    return new AppError("invalid_argument", `value is too large for store "${store}" (${why})`, {
      ...options,
      reason: "VALUE_TOO_LARGE",
    });
  }
  return new AppError("unavailable", `store "${store}" does not answer: ${why}`, {
    ...options,
    reason: "STORE_UNAVAILABLE",
    retryAfterMs: unavailableRetryMs,
  });
}
