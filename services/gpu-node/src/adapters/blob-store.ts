/**
 * Images and checkpoints as immutable objects. An object is real only once the leader has put its
 * pointer into the job's record, so whatever a fenced group stores stays without effect.
 */
import { createHash } from "node:crypto";
import { AppError } from "@fluxline/kernel/error.ts";
import type { Objects } from "@fluxline/platform/bus/object-store.ts";
import { checkpointKey, type JobKey, resultKey } from "@fluxline/platform/bus/topology.ts";
import type { BlobPointer, ImageUnit } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import type { ImageFile } from "./image-file.ts";

/** A placement, as far as keys need it. */
export interface Placement extends JobKey {
  readonly attempt: bigint;
}

export interface ImageFacts {
  readonly width: number;
  readonly height: number;
  readonly seed: bigint;
}

export class BlobStore {
  readonly #results: Objects;
  readonly #checkpoints: Objects;

  constructor(results: Objects, checkpoints: Objects) {
    this.#results = results;
    this.#checkpoints = checkpoints;
  }

  async storeImage(
    placement: Placement,
    index: number,
    file: ImageFile,
    facts: ImageFacts,
  ): Promise<ImageUnit> {
    const key = resultKey(placement, placement.attempt, index);
    const { sizeBytes, sha256 } = await this.#results.put(key, file.bytes);
    const result = pointer(this.#results, key, sizeBytes, sha256);
    const image = {
      index,
      ...facts,
      contentType: file.contentType,
      sizeBytes: BigInt(sizeBytes),
      sha256,
    };
    return { index, result, image, checkpoint: undefined, checkpointStep: 0 };
  }

  /** `latents` at the boundary after `step` steps, float32, little-endian. */
  async storeCheckpoint(
    placement: Placement,
    index: number,
    step: number,
    latents: Float32Array,
  ): Promise<ImageUnit> {
    const key = checkpointKey(placement, placement.attempt, index, step);
    const bytes = new Uint8Array(latents.buffer, latents.byteOffset, latents.byteLength);
    const { sizeBytes, sha256 } = await this.#checkpoints.put(key, bytes);
    const checkpoint = pointer(this.#checkpoints, key, sizeBytes, sha256);
    return { index, checkpoint, checkpointStep: step, result: undefined, image: undefined };
  }

  /** The latents of a checkpoint. Throws DATA_LOSS when they are gone or not what was stored. */
  async readCheckpoint(checkpoint: BlobPointer): Promise<Float32Array> {
    const bytes = await this.#checkpoints.getBytes(checkpoint.key);
    if (bytes === undefined) throw lost(checkpoint, "is gone");
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    if (sha256 !== checkpoint.sha256) throw lost(checkpoint, "does not have its digest");
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  }
}

function pointer(objects: Objects, key: string, sizeBytes: number, sha256: string): BlobPointer {
  return { bucket: objects.store.name, key, sizeBytes: BigInt(sizeBytes), sha256 };
}

function lost(checkpoint: BlobPointer, how: string): AppError {
  return new AppError("data_loss", `checkpoint ${checkpoint.key} ${how}`, {
    reason: "CHECKPOINT_LOST",
    retryable: false,
  });
}
