/** The subjects that the leader of a pool serves and hears, while it leads. */
import type { AppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import {
  type Codec,
  listenBus,
  publishBus,
  serveBus,
  type Served,
} from "@fluxline/platform/bus/request.ts";
import { everyGroupSubject, leaderSubject } from "@fluxline/platform/bus/topology.ts";
import {
  AdmitReply,
  AdmitRequest,
  CancelReply,
  CancelRequest,
  Heartbeat,
  Report,
  ReportReply,
  ReportReply_Outcome,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { JobRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { ImageJob_State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { keyOf } from "../core/job-table.ts";
import type { Input } from "../core/leader-protocol.ts";
import { heartbeatFromWire, reportFromWire } from "./bus-codec.ts";
import { fromWireRecord } from "./record-codec.ts";

export interface LeaderInbox {
  recordBytesMax(): number;
  /** Resolves to the core's answer, or undefined when there will be none. */
  ask<Reply extends AdmitReply | CancelReply | ReportReply>(
    input: (token: number) => Input,
  ): Promise<Reply | undefined>;
  tell(input: Input): void;
  onError(error: AppError, subject: string): void;
}

/** Admissions in work at a time; a caller above that hears nothing and reports UNAVAILABLE. */
const admissionsMax = 4_096;

export function serveLeader(bus: Bus, pool: string, epoch: bigint, inbox: LeaderInbox): Served[] {
  const onError = inbox.onError.bind(inbox);
  return [
    serveBus(bus, {
      subject: leaderSubject(pool, "admit"),
      request: AdmitRequest,
      reply: AdmitReply,
      inFlightMax: admissionsMax,
      handle: async ({ record }) => {
        if (record?.pool !== pool) return undefined;
        const sizeBytes = JobRecord.encode(record).finish().length;
        const recordBytesMax = inbox.recordBytesMax();
        const draft = fromWireRecord({ ...record, state: ImageJob_State.STATE_QUEUED });
        const input = { kind: "admit", draft, sizeBytes, recordBytesMax } as const;
        return inbox.ask<AdmitReply>((token) => ({ ...input, token }));
      },
      onError,
    }),
    serveBus(bus, {
      subject: leaderSubject(pool, "cancel"),
      request: CancelRequest,
      reply: CancelReply,
      handle: ({ tenant, job }) =>
        inbox.ask<CancelReply>((token) => ({ kind: "cancel", token, key: keyOf({ tenant, job }) })),
      onError,
    }),
    serveBus(bus, {
      subject: leaderSubject(pool, "report"),
      request: Report,
      reply: ReportReply,
      inFlightMax: admissionsMax,
      handle: (wire) => {
        const report = reportFromWire(wire);
        // An event of a version to come cannot be recorded, and saying nothing would repeat it.
        if (!report) return { outcome: ReportReply_Outcome.OUTCOME_STALE };
        return inbox.ask<ReportReply>((token) => ({ kind: "report", token, report }));
      },
      onError,
    }),
    listenBus(bus, {
      subject: everyGroupSubject(pool, "heartbeat"),
      message: Heartbeat,
      handle: (heartbeat, subject) => {
        // A group speaks for itself only.
        if (heartbeat.pool !== pool || subject.split(".")[3] !== heartbeat.group) return;
        inbox.tell({ kind: "heartbeat", facts: heartbeatFromWire(heartbeat) });
      },
      onError,
    }),
    listenBus(bus, {
      subject: leaderSubject(pool, "echo"),
      message: epochCodec,
      handle: (heard) => {
        if (heard === epoch) inbox.tell({ kind: "echo" });
      },
      onError,
    }),
  ];
}

/** The leader to itself: heard again, it proves the path. */
export function publishEcho(bus: Bus, pool: string, epoch: bigint): void {
  publishBus(bus, leaderSubject(pool, "echo"), epochCodec, epoch);
}

const epochCodec: Codec<bigint> = {
  encode: (epoch) => ({
    finish: () => {
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, epoch);
      return bytes;
    },
  }),
  decode: (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getBigUint64(0),
};
