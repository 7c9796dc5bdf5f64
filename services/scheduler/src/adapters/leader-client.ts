/** Asks the leader of a pool, through the bus, from whichever replica took the call. */
import { AppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import { callBus, type Outcome } from "@fluxline/platform/bus/request.ts";
import { leaderSubject } from "@fluxline/platform/bus/topology.ts";
import { fromStatus } from "@fluxline/platform/grpc/status.ts";
import {
  AdmitReply,
  AdmitRequest,
  CancelReply,
  CancelRequest,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { JobRecord as WireRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import type { Stored } from "@fluxline/platform/bus/key-value.ts";

const replyTimeoutMs = 10_000;
/** A take-over takes about six seconds; a client that asks once a second is soon served. */
const noLeaderRetryMs = 1_000;

export class LeaderClient {
  readonly #bus: Bus;

  constructor(bus: Bus) {
    this.#bus = bus;
  }

  /** Resolves once the job is recorded, to its record; an earlier one for a repeated request. */
  async admit(record: WireRecord): Promise<Stored & { readonly created: boolean }> {
    const outcome = await callBus(this.#bus, {
      subject: leaderSubject(record.pool, "admit"),
      request: AdmitRequest,
      reply: AdmitReply,
      body: { record },
      timeoutMs: replyTimeoutMs,
    });
    const unknown = "whether the job was recorded is not known: ask again with a request_id";
    const created = outcome.kind === "reply" && outcome.value.created;
    return { ...stored(outcome, unknown), created };
  }

  async cancel(pool: string, tenant: string, job: string): Promise<Stored> {
    const outcome = await callBus(this.#bus, {
      subject: leaderSubject(pool, "cancel"),
      request: CancelRequest,
      reply: CancelReply,
      body: { pool, tenant, job },
      timeoutMs: replyTimeoutMs,
    });
    return stored(outcome, "whether the cancel was recorded is not known: ask again");
  }
}

function stored(outcome: Outcome<AdmitReply | CancelReply>, unknown: string): Stored {
  switch (outcome.kind) {
    case "undelivered": {
      const text = "no scheduler leads this pool just now: ask again in a moment";
      throw unavailable(text, "NO_LEADER");
    }
    case "unknown":
      throw unavailable(`the leader of this pool did not answer; ${unknown}`, "LEADER_SILENT");
    case "reply":
      break;
  }
  const { outcome: result, revision } = outcome.value;
  if (result?.$case === "refused") throw fromStatus(result.value);
  if (result?.$case !== "record") throw new AppError("internal", "the leader's answer is empty");
  return { value: WireRecord.encode(result.value).finish(), revision: Number(revision) };
}

function unavailable(text: string, reason: string): AppError {
  return new AppError("unavailable", text, { reason, retryAfterMs: noLeaderRetryMs });
}
