/** Bus messages between their wire form and the core's. */
import {
  type Assign,
  type CommandReply,
  CommandReply_Outcome,
  type Fence as WireFence,
  type Heartbeat,
  type Registration,
  type Report,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import type {
  ImageUnit as WireUnit,
  ModelProfile,
} from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { priorityOf } from "@fluxline/platform/message/priority.ts";
import type { GroupFacts, HeartbeatFacts } from "../core/group-table.ts";
import type { Failure, Fence } from "../core/job.ts";
import type { PlacementEvent } from "../core/job-transition.ts";
import type { AssignOutcome, Effect, ReportMessage } from "../core/leader-protocol.ts";
import { TENANT_SHARE_DEFAULT } from "../core/limits.ts";
import { failureFromStatus, specOf } from "./record-codec.ts";

export function fenceFromWire(fence: WireFence): Fence {
  const { pool, tenant, job, attempt, group, incarnation, leaderEpoch } = fence;
  return { pool, tenant, job, attempt, group, incarnation, leaderEpoch };
}

/** Undefined for an event that this version does not know. */
export function reportFromWire(report: Report): ReportMessage | undefined {
  if (!report.fence || !report.event) return undefined;
  return { fence: fenceFromWire(report.fence), event: eventFromWire(report.event) };
}

function eventFromWire(event: NonNullable<Report["event"]>): PlacementEvent {
  switch (event.$case) {
    case "started": {
      const { numericsClass, simulated, restarted, advisories } = event.value;
      return { kind: "started", numericsClass, simulated, restarted, advisories };
    }
    case "checkpointed":
      return { kind: "checkpointed", units: event.value.units };
    case "unitFinished":
      return { kind: "unit-finished", units: event.value.unit ? [event.value.unit] : [] };
    case "finished":
      return { kind: "finished", units: event.value.units };
    case "released":
      return { kind: "released", units: event.value.units };
    case "failed": {
      const { error, blamed, suspect, retryable } = event.value;
      return { kind: "failed", failure: failureOrUnknown(error), blamed, suspect, retryable };
    }
  }
}

function failureOrUnknown(status: Parameters<typeof failureFromStatus>[0] | undefined): Failure {
  if (status) return failureFromStatus(status);
  const message = "the group gave no reason";
  return { code: "internal", reason: "NO_REASON_GIVEN", message };
}

export function heartbeatFromWire(heartbeat: Heartbeat): HeartbeatFacts {
  return {
    ...groupFacts(heartbeat),
    leaderEpoch: heartbeat.leaderEpoch,
    draining: heartbeat.draining,
    ready: heartbeat.stages.every((stage) => stage.ready),
    residents: heartbeat.residents,
  };
}

export function registrationFromWire(
  registration: Registration,
  { digest }: ModelProfile,
): GroupFacts {
  return { ...groupFacts(registration), modelDigest: digest };
}

function groupFacts(message: Heartbeat | Registration): GroupFacts {
  return {
    group: message.group,
    incarnation: message.incarnation,
    residentsMax: message.maxResidents,
    numericsClass: message.numericsClass,
    simulated: message.simulated,
    protocolVersionMin: message.protocolVersionMin,
    protocolVersionMax: message.protocolVersionMax,
  };
}

export function assignToWire(effect: Extract<Effect, { kind: "assign" }>): Assign {
  const { fence, record, units, alone } = effect;
  return {
    fence,
    spec: specOf(record),
    units: units as WireUnit[],
    numericsClass: record.numericsClass,
    alone,
    share: TENANT_SHARE_DEFAULT,
    priority: priorityOf(record.priorityClass),
    deadline: new Date(record.expireTimeMs),
    arrivalTime: new Date(record.createTimeMs),
  };
}

export function assignOutcomeFromWire(reply: CommandReply): AssignOutcome {
  switch (reply.outcome) {
    case CommandReply_Outcome.OUTCOME_ACCEPTED:
      return { kind: "accepted" };
    case CommandReply_Outcome.OUTCOME_STALE:
    case CommandReply_Outcome.OUTCOME_FULL:
    case CommandReply_Outcome.OUTCOME_DRAINING:
      return { kind: "not-taken" };
    case CommandReply_Outcome.OUTCOME_REFUSED:
      return { kind: "refused", failure: failureOrUnknown(reply.error) };
    default:
      return { kind: "unknown" };
  }
}
