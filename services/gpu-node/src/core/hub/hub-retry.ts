/**
 * Whether a request to the hub is tried again, and when. Bounded: tries in a row that brought not
 * one byte, and the wait that a hub may ask for.
 */
import type { AppError } from "@fluxline/kernel/error.ts";

export interface RetryLimits {
  /** Tries in a row without any progress. */
  readonly triesMax: number;
  /** Before the second try; doubled each time. */
  readonly firstDelayMs: number;
}

/** A hub that asks for a longer rest than this is told to the user instead. */
export const RETRY_AFTER_MS_MAX = 120_000;
const DELAY_MS_MAX = 15_000;

export type RetryDecision =
  | { readonly kind: "retry"; readonly delayMs: number }
  | { readonly kind: "give-up" };

/**
 * @param failures how many tries in a row failed without progress, this one counted
 * @param chance in [0, 1): spreads clients that failed together
 */
export function decideRetry(
  error: AppError,
  failures: number,
  chance: number,
  { triesMax, firstDelayMs }: RetryLimits,
): RetryDecision {
  if (!error.retryable || failures >= triesMax) return { kind: "give-up" };
  const backOffMs = Math.min(DELAY_MS_MAX, firstDelayMs * 2 ** (failures - 1));
  const delayMs = Math.round(backOffMs * (0.5 + chance / 2));
  const { retryAfterMs } = error;
  if (retryAfterMs === undefined) return { kind: "retry", delayMs };
  if (retryAfterMs > RETRY_AFTER_MS_MAX) return { kind: "give-up" };
  return { kind: "retry", delayMs: Math.max(retryAfterMs, delayMs) };
}

/** Header Retry-After: seconds, or a date; undefined when it is neither. */
export function retryAfterMs(header: string | null, nowMs: number): number | undefined {
  if (header === null) return undefined;
  if (/^\d+$/.test(header.trim())) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs);
}
