/** A job record for tests: a plain queued one, with what the test cares about. */
import type { ImageUnit, JobRecord, Placement } from "./job.ts";

export function buildRecord(changes: Partial<JobRecord> = {}): JobRecord {
  return {
    schemaVersion: 1,
    pool: "p",
    tenant: "default",
    id: "job1",
    requestId: "",
    requestFingerprint: "f",
    spec: {},
    priorityClass: "standard",
    advisories: [],
    state: "queued",
    attempt: 0n,
    blamedFailures: 0,
    fruitlessAttempts: 0,
    suspect: false,
    group: "",
    incarnation: "",
    leaderEpoch: 1n,
    units: [buildUnit(0)],
    failure: undefined,
    modelDigest: "d",
    numericsClass: "",
    simulated: false,
    arrival: 1n,
    createTimeMs: 1_000,
    startTimeMs: undefined,
    endTimeMs: undefined,
    expireTimeMs: 86_400_000,
    queueDeadlineMs: undefined,
    ...changes,
  };
}

export function buildUnit(index: number, changes: Partial<ImageUnit> = {}): ImageUnit {
  return {
    index,
    checkpoint: undefined,
    checkpointStep: 0,
    result: undefined,
    image: undefined,
    ...changes,
  };
}

export function finishedUnit(index: number, attempt = 1): ImageUnit {
  const key = `p/default/job1/${attempt}/${index}`;
  return buildUnit(index, { result: { bucket: "results", key }, image: { index } });
}

export function checkpointedUnit(index: number, step: number, attempt = 1): ImageUnit {
  const key = `p/default/job1/${attempt}/${index}-${step}`;
  return buildUnit(index, { checkpoint: { bucket: "checkpoints", key }, checkpointStep: step });
}

export const testPlacement: Placement = { attempt: 1n, group: "g0", incarnation: "i0" };
