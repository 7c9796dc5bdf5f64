/**
 * Which blobs nothing points to. A blob is real only while a record points to it; a group that was
 * fenced may have stored others, and a leader may have died between a record and its blobs.
 */
import { blobsOf, isEnded, type JobRecord } from "./job.ts";

export interface StoredBlob {
  readonly key: string;
  /** From the key. */
  readonly attempt: bigint;
}

/** `record`: the job that the blob's key names, if it is still there. */
export function isOrphan(record: JobRecord | undefined, blob: StoredBlob): boolean {
  if (!record) return true;
  if (blobsOf(record).some((pointer) => pointer.key === blob.key)) return false;
  // The present attempt may be about to report it.
  return isEnded(record.state) || blob.attempt < record.attempt;
}
