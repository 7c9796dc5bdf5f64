/**
 * One GenerateImage call, watched to its end: job events as they come, and the pictures put together
 * from their chunks and checked against the checksum that the job states.
 */
import { createHash } from "node:crypto";
import { AppError } from "@fluxline/kernel/error.ts";
import { fromStatus } from "@fluxline/platform/grpc/status.ts";
import {
  type ImageJob,
  ImageJob_State,
  type Preview,
} from "@fluxline/proto/fluxline/v1/image_job.ts";
import type {
  GenerateImageResponse,
  ImageChunk,
  ReadImageResponse,
} from "@fluxline/proto/fluxline/v1/image_service.ts";

export interface Picture {
  readonly index: number;
  readonly contentType: string;
  readonly bytes: Uint8Array;
}

export interface Outcome {
  readonly job: ImageJob;
  readonly pictures: readonly Picture[];
}

export async function collectPictures(
  events: AsyncIterable<GenerateImageResponse>,
  onJob: (job: ImageJob) => void,
  onPreview: (preview: Preview, job: ImageJob) => void,
): Promise<Outcome> {
  let job: ImageJob | undefined;
  const parts = new Map<number, PicturePart>();
  for await (const { event } of events) {
    if (event?.$case === "jobEvent" && event.value.job !== undefined) {
      job = event.value.job;
      onJob(job);
    } else if (event?.$case === "preview" && job !== undefined) {
      onPreview(event.value, job);
    } else if (event?.$case === "imageChunk") {
      const { index, contentType } = event.value;
      const part = parts.get(index) ?? { contentType, size: 0, chunks: [] };
      addChunk(part, event.value);
      parts.set(index, part);
    }
  }
  if (job === undefined) throw new AppError("internal", "the server ended without naming a job");
  throwUnlessSucceeded(job);
  const pictures = [...parts].map(([index, { contentType, chunks }]) => ({
    index,
    contentType,
    bytes: Buffer.concat(chunks),
  }));
  checkPictures(job, pictures);
  return { job, pictures: pictures.sort((a, b) => a.index - b.index) };
}

/** The pictures of a job that has succeeded; `read` streams one of them from its first byte. */
export async function readPictures(
  job: ImageJob,
  read: (index: number) => AsyncIterable<ReadImageResponse>,
): Promise<readonly Picture[]> {
  const pictures: Picture[] = [];
  for (const { index, contentType } of job.images) {
    const part: PicturePart = { contentType, size: 0, chunks: [] };
    for await (const { offset, chunk } of read(index)) addChunk(part, { index, offset, chunk });
    pictures.push({ index, contentType, bytes: Buffer.concat(part.chunks) });
  }
  checkPictures(job, pictures);
  return pictures;
}

interface PicturePart {
  readonly contentType: string;
  readonly chunks: Uint8Array[];
  size: number;
}

function addChunk(
  part: PicturePart,
  { index, offset, chunk }: Pick<ImageChunk, "index" | "offset" | "chunk">,
): void {
  if (BigInt(part.size) !== offset) {
    const text = `image ${index}: ${part.size} bytes came, and the next chunk begins at ${offset}`;
    throw new AppError("data_loss", `${text}; try again`, { reason: "CHUNK_OUT_OF_PLACE" });
  }
  part.chunks.push(chunk);
  part.size += chunk.length;
}

/** A job that has ended otherwise says why. */
export function throwUnlessSucceeded(job: ImageJob): void {
  if (job.state === ImageJob_State.STATE_SUCCEEDED) return;
  if (job.error !== undefined) throw fromStatus(job.error);
  if (job.state === ImageJob_State.STATE_CANCELLED) {
    throw new AppError("cancelled", `${job.name} was cancelled`, { reason: "JOB_CANCELLED" });
  }
  throw new AppError("internal", `${job.name} ended without a picture and without a reason`);
}

function checkPictures(job: ImageJob, pictures: readonly Picture[]): void {
  for (const image of job.images) {
    const picture = pictures.find(({ index }) => index === image.index);
    const sha256 = createHash("sha256")
      .update(picture?.bytes ?? "")
      .digest("hex");
    if (sha256 === image.sha256) continue;
    const size = `${picture?.bytes.length ?? 0} of ${image.sizeBytes} bytes came`;
    const text = `image ${image.index} of ${job.name} came damaged (${size}); try again`;
    throw new AppError("data_loss", text, { reason: "CHECKSUM_MISMATCH" });
  }
  if (job.images.length === 0) throw new AppError("internal", `${job.name} has no images`);
}
