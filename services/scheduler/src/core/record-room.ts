/**
 * The room that a job's record may come to take in the store. It grows with each image, and a full
 * store refuses larger values: so room for the growth is set aside when the job is admitted.
 */
import { isEnded, type JobRecord, unitsLeft } from "./job.ts";
import { RECORD_GROWTH_BYTES, RECORD_GROWTH_BYTES_PER_IMAGE, RECORD_KEY_BYTES } from "./limits.ts";

/** `sizeBytes`: of the record as it is written now. */
export function roomOf(record: Pick<JobRecord, "state" | "units">, sizeBytes: number): number {
  const nowBytes = sizeBytes + RECORD_KEY_BYTES;
  if (isEnded(record.state)) return nowBytes;
  return nowBytes + RECORD_GROWTH_BYTES + unitsLeft(record).length * RECORD_GROWTH_BYTES_PER_IMAGE;
}
