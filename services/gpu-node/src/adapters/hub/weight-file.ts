/**
 * One weight file of the cache: sparse, of full size, with a manifest beside the model that says
 * which bytes are there. Bytes are written, made durable, and only then entered in the manifest,
 * which is replaced as a whole; so a kill at any moment costs some bytes and never tells a lie.
 */
import { randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { changedError, digestError, type HubTarget } from "../../core/hub/hub-error.ts";
import type { ByteRange, ByteRanges } from "../../core/hub/byte-ranges.ts";
import {
  isWhole,
  manifestText,
  parseManifest,
  type WeightManifest,
  withRanges,
} from "../../core/hub/weight-manifest.ts";
import type { ListedDigest } from "../../core/hub/model-files.ts";
import { digestOfFile } from "./file-digest.ts";
import type { FileLock } from "../file-lock.ts";

export interface WeightFilePlace {
  /** Of the weights, inside the model's folder. */
  readonly file: string;
  readonly manifestFile: string;
  readonly lockFile: string;
  readonly target: HubTarget;
  readonly size: number;
  readonly sha256: string | undefined;
  /** What its bytes are compared with, once they are all there. */
  readonly digest: ListedDigest | undefined;
}

export class WeightFile {
  readonly place: WeightFilePlace;

  constructor(place: WeightFilePlace) {
    this.place = place;
  }

  /** Makes the sparse file if it is not there. Others must be kept from doing so meanwhile. */
  async create(): Promise<void> {
    const { file, manifestFile, size } = this.place;
    const found = await stat(file).catch(() => undefined);
    if (found?.size === size) return;
    // What the manifest says was said of bytes that are gone.
    await rm(manifestFile, { force: true });
    await mkdir(dirname(file), { recursive: true });
    const draft = `${file}.draft`;
    const handle = await open(draft, "w");
    try {
      await handle.truncate(size);
      await handle.sync();
    } finally {
      await handle.close();
    }
    // Also replaces a link whose target is gone.
    await rename(draft, file);
  }

  async manifest(): Promise<WeightManifest> {
    const { manifestFile, size, sha256, target } = this.place;
    const key = { path: target.path!, size, commit: target.revision };
    const text = await readFile(manifestFile, "utf8").catch((thrown: NodeJS.ErrnoException) => {
      if (thrown.code === "ENOENT") return "";
      throw thrown;
    });
    const empty = { ...key, etag: undefined, sha256, ranges: [], verified: false };
    return parseManifest(text, key) ?? empty;
  }

  /** Throws everything away; whoever has it open keeps what was there. */
  async discard(): Promise<void> {
    await rm(this.place.manifestFile, { force: true });
    await rm(this.place.file, { force: true });
    await this.create();
  }

  /** Opens it for writing, under its lock. */
  async write(lock: FileLock): Promise<WeightWriter> {
    const handle = await open(this.place.file, "r+");
    return new WeightWriter(this, handle, lock, await this.manifest());
  }

  /**
   * Compares a whole file with its digest, under its lock; does nothing where the hub gave none.
   * @throws AppError HUB_DIGEST_MISMATCH; the file is thrown away
   */
  async verify(lock: FileLock, onBytes?: (bytes: number) => void): Promise<boolean> {
    const manifest = await this.manifest();
    const { file, digest, target } = this.place;
    if (digest === undefined || !isWhole(manifest)) return false;
    const found = await digestOfFile(digest, file, onBytes);
    lock.assertHeld();
    if (found !== digest.hex) {
      await this.discard();
      throw digestError(target, digest.hex, found);
    }
    if (!manifest.verified) await this.replaceManifest({ ...manifest, verified: true });
    return true;
  }

  async replaceManifest(manifest: WeightManifest): Promise<void> {
    const { manifestFile } = this.place;
    await mkdir(dirname(manifestFile), { recursive: true });
    // A name of its own: one that lost the lock may be writing still.
    const draft = `${manifestFile}.${randomUUID()}`;
    const handle = await open(draft, "w");
    try {
      await handle.writeFile(manifestText(manifest));
      await handle.datasync();
    } finally {
      await handle.close();
    }
    await rename(draft, manifestFile);
  }
}

/** Several connections write through one of these; commits come one after another. */
export class WeightWriter {
  readonly #weights: WeightFile;
  readonly #handle: FileHandle;
  readonly #lock: FileLock;
  #manifest: WeightManifest;
  #written: ByteRange[] = [];
  #committing: Promise<void> = Promise.resolve();

  constructor(weights: WeightFile, handle: FileHandle, lock: FileLock, manifest: WeightManifest) {
    this.#weights = weights;
    this.#handle = handle;
    this.#lock = lock;
    this.#manifest = manifest;
  }

  /** What is there and durable. */
  get ranges(): ByteRanges {
    return this.#manifest.ranges;
  }

  /** @throws AppError HUB_FILE_CHANGED when the bytes to come are of another version than those here */
  accept(etag: string): void {
    const { etag: known } = this.#manifest;
    if (known === undefined) this.#manifest = { ...this.#manifest, etag };
    else if (known !== etag) throw changedError(this.#weights.place.target, known, etag);
  }

  /** Parts of a stretch of the file, in order. */
  async write(parts: readonly Uint8Array[], position: number): Promise<void> {
    let left = parts.filter(({ length }) => length > 0);
    let at = position;
    while (left.length > 0) {
      const { bytesWritten } = await this.#handle.writev(left, at);
      at += bytesWritten;
      left = withoutFirst(left, bytesWritten);
    }
    this.#written.push([position, at]);
  }

  /** Makes durable what was written so far, and enters it. */
  commit(): Promise<void> {
    this.#committing = this.#committing.then(() => this.#commit());
    return this.#committing;
  }

  async #commit(): Promise<void> {
    const written = this.#written.splice(0);
    if (written.length === 0) return;
    await this.#handle.datasync();
    this.#lock.assertHeld();
    const next = withRanges(this.#manifest, written);
    await this.#weights.replaceManifest(next);
    this.#manifest = next;
  }

  async close(): Promise<void> {
    await this.#committing.catch(() => undefined); // whoever committed has heard of it
    await this.#handle.close();
  }
}

/** What is left of parts when so many bytes of them have been written. */
function withoutFirst(parts: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let skip = bytes;
  return parts.flatMap((part) => {
    const rest = part.subarray(Math.min(skip, part.length));
    skip -= part.length - rest.length;
    return rest.length > 0 ? [rest] : [];
  });
}
