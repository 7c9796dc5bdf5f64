/**
 * A job as the public API shows it, and the revision of that sight:
 *
 *   revision = store revision << 20 | detail
 *
 * The detail grows while the record stays: places gained in the queue, then steps done. A change
 * of the record outweighs any detail, and every replica computes the same.
 */
import {
  type ImageJob,
  type ImageResult,
  type Progress,
  Progress_Phase,
} from "@fluxline/proto/fluxline/v1/image_job.ts";
import { isEnded } from "../../core/job.ts";
import { jobName } from "../../core/job-name.ts";
import type { JobMirror, MirroredJob } from "../job-mirror.ts";
import { specOf, stateNumber, statusOfFailure } from "../record-codec.ts";

export interface JobSight {
  readonly revision: bigint;
  readonly job: ImageJob;
  readonly ended: boolean;
}

const detailBits = 20n;
const detailMax = (1 << Number(detailBits)) - 1;
const phaseBits = 3;

export function viewJob(mirror: JobMirror, mirrored: MirroredJob): JobSight {
  const { record } = mirrored;
  const queued = record.state === "queued";
  const queuePosition = queued ? mirror.queuePosition(mirrored) : 0;
  const progress = progressOf(mirrored);
  const detail = queued ? detailMax - Math.min(queuePosition, detailMax) : progressDetail(progress);
  const job: ImageJob = {
    name: jobName(record),
    state: stateNumber(record.state),
    spec: specOf(record),
    progress,
    queuePosition,
    images: record.units.flatMap((unit) =>
      unit.result && unit.image ? [unit.image as ImageResult] : [],
    ),
    advisories: [...record.advisories],
    error: record.failure && statusOfFailure(record.failure),
    attempt: record.attempt,
    requestId: record.requestId,
    createTime: new Date(record.createTimeMs),
    startTime: record.startTimeMs === undefined ? undefined : new Date(record.startTimeMs),
    endTime: record.endTimeMs === undefined ? undefined : new Date(record.endTimeMs),
    expireTime: new Date(record.expireTimeMs),
    numericsClass: record.numericsClass,
    simulated: record.simulated,
  };
  const revision = (BigInt(mirrored.revision) << detailBits) | BigInt(detail);
  return { revision, job, ended: isEnded(record.state) };
}

function progressOf({ record, progress }: MirroredJob): Progress {
  const spec = specOf(record);
  const stepsPerImage = spec.numInferenceSteps ?? 0;
  const totalSteps = stepsPerImage * record.units.length;
  if (record.state === "succeeded") {
    return { phase: Progress_Phase.PHASE_UNSPECIFIED, step: totalSteps, totalSteps };
  }
  if (progress) return { ...progress, totalSteps };
  // What is stored is what a new attempt starts from.
  const step = record.units.reduce(
    (sum, unit) => sum + (unit.result ? stepsPerImage : unit.checkpointStep),
    0,
  );
  return { phase: Progress_Phase.PHASE_UNSPECIFIED, step, totalSteps };
}

function progressDetail({ step, phase }: Progress): number {
  const phasePart = Math.min(Math.max(phase, 0), (1 << phaseBits) - 1);
  return Math.min((step << phaseBits) | phasePart, detailMax);
}
