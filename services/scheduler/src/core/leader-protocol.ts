/** What goes into the leader's core and what comes out: plain data, for adapters and simulators. */
import type { AppError } from "@fluxline/kernel/error.ts";
import type { AdmitDraft, AdmitOutcome } from "./admission.ts";
import type { GroupFacts, HeartbeatFacts } from "./group-table.ts";
import type { BlobPointer, Failure, Fence, ImageUnit, JobRecord } from "./job.ts";
import type { LoadedJob, Token } from "./job-table.ts";
import type { PlacementEvent } from "./job-transition.ts";

export interface ReportMessage {
  readonly fence: Fence;
  readonly event: PlacementEvent;
}

export type AssignOutcome =
  | { readonly kind: "accepted" }
  /** Full, draining, stale, nobody there: it certainly does not have the job. */
  | { readonly kind: "not-taken" }
  | { readonly kind: "refused"; readonly failure: Failure }
  | { readonly kind: "unknown" };

export type Input =
  | {
      readonly kind: "admit";
      readonly token: Token;
      readonly draft: AdmitDraft;
      /** Of its record. */
      readonly sizeBytes: number;
      /** What the records of the pool may take together now. */
      readonly recordBytesMax: number;
    }
  | { readonly kind: "cancel"; readonly token: Token; readonly key: string }
  | {
      readonly kind: "register";
      readonly token: Token;
      readonly facts: GroupFacts;
      readonly profile: unknown;
    }
  | { readonly kind: "report"; readonly token: Token; readonly report: ReportMessage }
  | { readonly kind: "heartbeat"; readonly facts: HeartbeatFacts }
  | { readonly kind: "echo" }
  | { readonly kind: "tick" }
  | {
      readonly kind: "written";
      readonly key: string;
      readonly revision: number;
      readonly sizeBytes: number;
    }
  /** The write was not done: the store has something else (or nothing any more). */
  | {
      readonly kind: "conflict";
      readonly key: string;
      readonly stored: LoadedJob | undefined;
    }
  /** The store said no; what it has is unchanged. */
  | { readonly kind: "write-refused"; readonly key: string; readonly error: AppError }
  | { readonly kind: "purged"; readonly key: string }
  /** A write that the watch on the store told. */
  | { readonly kind: "observed"; readonly job: LoadedJob }
  | { readonly kind: "assign-outcome"; readonly fence: Fence; readonly outcome: AssignOutcome }
  /** A group answered a revoke: it does not hold this placement. */
  | { readonly kind: "revoke-stale"; readonly fence: Fence };

export type Found = {
  readonly kind: "found";
  readonly record: JobRecord;
  readonly revision: number;
};
export type Refused = { readonly kind: "refused"; readonly error: AppError };

export type Effect =
  /** Compare-and-set; revision 0 creates. Answered by written, conflict or write-refused. */
  | {
      readonly kind: "write";
      readonly key: string;
      readonly record: JobRecord;
      readonly revision: number;
    }
  /** Answered by purged, conflict or write-refused. */
  | { readonly kind: "purge"; readonly key: string; readonly revision: number }
  | { readonly kind: "delete-blobs"; readonly blobs: readonly BlobPointer[] }
  /** Answered by assign-outcome. */
  | {
      readonly kind: "assign";
      readonly key: string;
      readonly fence: Fence;
      readonly record: JobRecord;
      readonly units: readonly ImageUnit[];
      readonly alone: boolean;
    }
  /** Stop at the next step boundary and forget it. Answered by revoke-stale, or not at all. */
  | { readonly kind: "revoke"; readonly fence: Fence }
  | { readonly kind: "reply-admit"; readonly token: Token; readonly outcome: AdmitOutcome }
  | { readonly kind: "reply-cancel"; readonly token: Token; readonly outcome: Found | Refused }
  | {
      readonly kind: "reply-report";
      readonly token: Token;
      readonly outcome: "recorded" | "stale";
    }
  | { readonly kind: "reply-register"; readonly token: Token; readonly outcome: Refused }
  /** Nothing came of it, and who asked hears nothing: it asks again. */
  | { readonly kind: "no-reply"; readonly token: Token }
  /** Write the pool's record, then accept the registration. */
  | {
      readonly kind: "store-pool";
      readonly token: Token;
      readonly profile: unknown;
      readonly facts: GroupFacts;
    }
  | { readonly kind: "echo" }
  | { readonly kind: "step-down"; readonly why: string }
  | { readonly kind: "count"; readonly what: string; readonly label: string };
