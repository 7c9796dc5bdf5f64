/**
 * Job and pool records between their stored form (protobuf) and the core's. Fields that this
 * version does not know ride along inside the objects they came in, and are written back.
 */
import { AppError } from "@fluxline/kernel/error.ts";
import { fromStatus, toStatus } from "@fluxline/platform/grpc/status.ts";
import { priorityClass } from "@fluxline/platform/message/priority.ts";
import {
  type ImageUnit as WireUnit,
  JobRecord as WireRecord,
} from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { ImageJob_State, type ImageSpec } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { Status } from "@fluxline/proto/google/rpc/status.ts";
import type { Failure, JobRecord, JobState } from "../core/job.ts";

export const recordSchemaVersion = 1;

const stateNumbers: Record<JobState, ImageJob_State> = {
  queued: ImageJob_State.STATE_QUEUED,
  assigned: ImageJob_State.STATE_ASSIGNED,
  running: ImageJob_State.STATE_RUNNING,
  cancelling: ImageJob_State.STATE_CANCELLING,
  succeeded: ImageJob_State.STATE_SUCCEEDED,
  failed: ImageJob_State.STATE_FAILED,
  cancelled: ImageJob_State.STATE_CANCELLED,
  expired: ImageJob_State.STATE_EXPIRED,
};

const stateNames = new Map(
  (Object.entries(stateNumbers) as [JobState, ImageJob_State][]).map(([name, n]) => [n, name]),
);

export function stateNumber(state: JobState): ImageJob_State {
  return stateNumbers[state];
}

export function stateName(state: ImageJob_State): JobState {
  const name = stateNames.get(state);
  if (name) return name;
  throw new AppError("data_loss", `job state ${state} is not known to this version`, {
    reason: "UNKNOWN_STATE",
  });
}

/** Throws DATA_LOSS for a record of a version to come, or of none. */
export function decodeRecord(bytes: Uint8Array): JobRecord {
  try {
    return fromWireRecord(WireRecord.decode(bytes));
  } catch (cause) {
    if (cause instanceof AppError) throw cause;
    const text = `a job record of ${bytes.length} bytes cannot be read by this version`;
    throw new AppError("data_loss", text, { reason: "UNREADABLE_RECORD", cause });
  }
}

export function encodeRecord(record: JobRecord): Uint8Array {
  return WireRecord.encode(toWireRecord(record)).finish();
}

export function fromWireRecord(wire: WireRecord): JobRecord {
  const { state, error, createTime, startTime, endTime, expireTime, queueDeadline, ...rest } = wire;
  return {
    ...rest,
    priorityClass: priorityClass(rest.spec?.priority ?? 0) ?? "standard",
    state: stateName(state),
    failure: error && failureFromStatus(error),
    createTimeMs: createTime?.getTime() ?? 0,
    startTimeMs: startTime?.getTime(),
    endTimeMs: endTime?.getTime(),
    expireTimeMs: expireTime?.getTime() ?? 0,
    queueDeadlineMs: queueDeadline?.getTime(),
  };
}

export function toWireRecord(record: JobRecord): WireRecord {
  const { state, failure, createTimeMs, startTimeMs, endTimeMs, ...more } = record;
  const { expireTimeMs, queueDeadlineMs, priorityClass: _inSpec, ...rest } = more;
  return {
    ...rest,
    advisories: [...rest.advisories],
    spec: rest.spec as ImageSpec | undefined,
    units: rest.units as WireUnit[],
    state: stateNumbers[state],
    error: failure && statusOfFailure(failure),
    createTime: new Date(createTimeMs),
    startTime: date(startTimeMs),
    endTime: date(endTimeMs),
    expireTime: new Date(expireTimeMs),
    queueDeadline: date(queueDeadlineMs),
  };
}

export function specOf(record: JobRecord): ImageSpec {
  return record.spec as ImageSpec;
}

export function failureFromStatus(status: Status): Failure {
  const error = fromStatus(status);
  return { code: error.code, reason: error.reason, message: error.message, carried: status };
}

export function statusOfFailure(failure: Failure): Status {
  if (failure.carried !== undefined) return failure.carried as Status;
  const { code, message, reason } = failure;
  return toStatus(new AppError(code, message, { reason, retryable: false }));
}

function date(timeMs: number | undefined): Date | undefined {
  return timeMs === undefined ? undefined : new Date(timeMs);
}
