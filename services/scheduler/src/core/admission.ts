/**
 * Whether a validated request becomes a job. The id of a request with a `request_id` follows from
 * it, so a repeat finds the first one's job; a repeat with other content is refused.
 */
import { AppError } from "@fluxline/kernel/error.ts";
import type { JobRecord } from "./job.ts";
import type { Found, Refused } from "./leader-protocol.ts";
import { QUEUE_FULL_RETRY_MS } from "./limits.ts";

/** A record without what is the leader's to set. */
export type AdmitDraft = Omit<JobRecord, "state" | "arrival" | "leaderEpoch" | "attempt">;

/** `created`: by this call; an earlier one made it otherwise. */
export type AdmitOutcome = (Found & { readonly created: boolean }) | Refused;

export interface AdmissionState {
  readonly pool: string;
  readonly epoch: bigint;
  readonly queuedJobs: number;
  readonly queuedJobsMax: number;
  /** What the pool's records may come to take with this one. */
  readonly recordBytes: number;
  readonly recordBytesMax: number;
  arrival(): bigint;
}

export function admit(
  draft: AdmitDraft,
  state: AdmissionState,
): { readonly kind: "admitted"; readonly record: JobRecord } | Refused {
  if (state.queuedJobs >= state.queuedJobsMax) {
    const text = `pool ${state.pool} has ${state.queuedJobs} jobs waiting, which is its maximum`;
    return refused(`${text}: try again later`, "QUEUE_FULL", state.pool, state.queuedJobsMax);
  }
  if (state.recordBytes > state.recordBytesMax) {
    const limit = Math.floor(state.recordBytesMax);
    const text =
      `the job records of pool ${state.pool} would take ${state.recordBytes} bytes of their ` +
      `${limit}: try again when older jobs have expired, or give the stores more room`;
    return refused(text, "RECORDS_FULL", state.pool, limit);
  }
  return {
    kind: "admitted",
    record: {
      ...draft,
      state: "queued",
      attempt: 0n,
      arrival: state.arrival(),
      leaderEpoch: state.epoch,
    },
  };
}

/** The job that a request with this content and the same request_id gets. */
export function sameRequest(
  record: JobRecord,
  fingerprint: string,
  revision: number,
): Found | Refused {
  if (record.requestFingerprint === fingerprint) return { kind: "found", record, revision };
  const name = `pools/${record.pool}/jobs/${record.id}`;
  const error = new AppError(
    "already_exists",
    `request_id ${record.requestId} belongs to ${name}, which asked for something else: use a ` +
      "new request_id for a new request",
    { reason: "REQUEST_ID_REUSED", details: { job: name } },
  );
  return { kind: "refused", error };
}

function refused(message: string, reason: string, pool: string, limit: number): Refused {
  const error = new AppError("resource_exhausted", message, {
    reason,
    retryable: true,
    retryAfterMs: QUEUE_FULL_RETRY_MS,
    details: { subject: `pools/${pool}`, limit: String(limit) },
  });
  return { kind: "refused", error };
}
