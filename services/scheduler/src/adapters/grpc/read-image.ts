/** The bytes of one finished image, in chunks, from any offset. */
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";
import type { Objects } from "@fluxline/platform/bus/object-store.ts";
import type { ImageResult } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { isEnded, type JobRecord } from "../../core/job.ts";
import { jobName } from "../../core/job-name.ts";

const chunkBytesMax = 128 * 1024;

export interface ImagePiece {
  readonly offset: bigint;
  readonly chunk: Buffer;
  readonly totalBytes: bigint;
  readonly contentType: string;
}

export async function* readImage(
  results: Objects,
  record: JobRecord,
  index: number,
  offset: bigint,
): AsyncGenerator<ImagePiece> {
  const unit = record.units[index];
  if (!unit) {
    const last = record.units.length - 1;
    const description = `is ${index}; the job has ${record.units.length} images: use 0 to ${last}`;
    throw invalidArgument([{ field: "index", description }]);
  }
  if (!unit.result) throw notThere(record, index);
  const image = unit.image as ImageResult;
  const object = await results.get(unit.result.key);
  if (!object) {
    const text = `the bytes of image ${index} of ${jobName(record)} are no longer stored`;
    throw new AppError("not_found", `${text}: create the job anew`, { reason: "IMAGE_GONE" });
  }
  const totalBytes = BigInt(object.sizeBytes);
  if (offset < 0n || offset > totalBytes) {
    const description = `is ${offset}; the file has ${totalBytes} bytes: use 0 to ${totalBytes}`;
    throw invalidArgument([{ field: "offset", description }], "OFFSET_OUT_OF_RANGE");
  }
  const { contentType } = image;
  let position = 0n;
  for await (const stored of object.chunks) {
    const bytes = Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength);
    const end = position + BigInt(bytes.length);
    for (let from = position > offset ? position : offset; from < end;) {
      const start = Number(from - position);
      const chunk = bytes.subarray(start, start + chunkBytesMax);
      yield { offset: from, chunk, totalBytes, contentType };
      from += BigInt(chunk.length);
    }
    position = end;
  }
}

function notThere(record: JobRecord, index: number): AppError {
  const what = `image ${index} of ${jobName(record)}`;
  if (!isEnded(record.state)) {
    const text = `${what} is not finished (the job is ${record.state}): watch the job, then read`;
    return new AppError("failed_precondition", text, { reason: "IMAGE_NOT_READY" });
  }
  const text = `${what} was never made: the job ended ${record.state}`;
  return new AppError("failed_precondition", text, { reason: "IMAGE_NOT_MADE" });
}
