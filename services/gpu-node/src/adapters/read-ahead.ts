/**
 * Brings weights into the page cache while a runtime loads them. The runtime maps the files and
 * touches them page by page, so that a cold disk is asked for little at a time; reading the same
 * bytes in large pieces beside it is faster than its faults, and they then find them there.
 *
 * A few looks come first: where they are answered faster than from a disk, the range is in memory
 * already, as after a warm restart, and is not read a second time.
 */
import { type FileHandle, open } from "node:fs/promises";
import type { FileRange } from "../core/image-model.ts";

const MIB = 1024 * 1024;
const PIECE_BYTES = 4 * MIB;
const LOOKS = 8;
const LOOK_BYTES = MIB;
/** One may be late for another reason. */
const LATE_LOOKS_MAX = 1;
/** Copies from the page cache run at several GB a second. */
const CACHED_BYTES_PER_SECOND = 2e9;
/** Ranges of one file that are no further apart are read as one. */
const GAP_BYTES = MIB;

/** Resolves when all was read or the signal has come; what cannot be read is the loader's to say. */
export async function readAhead(ranges: readonly FileRange[], signal: AbortSignal): Promise<void> {
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  for (const range of mergedRanges(ranges)) {
    if (signal.aborted) return;
    const file = await open(range.file).catch(() => undefined);
    if (file === undefined) continue;
    try {
      await readRange(file, range, buffer, signal);
    } catch {
      // The loader meets the same file, and names it.
    }
    await file.close();
  }
}

async function readRange(
  file: FileHandle,
  range: FileRange,
  buffer: Buffer,
  signal: AbortSignal,
): Promise<void> {
  if (await isInMemory(file, range, buffer)) return;
  const end = range.offset + range.length;
  for (let at = range.offset; at < end && !signal.aborted;) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, end - at), at);
    if (bytesRead === 0) return;
    at += bytesRead;
  }
}

async function isInMemory(
  file: FileHandle,
  { offset, length }: FileRange,
  buffer: Buffer,
): Promise<boolean> {
  let late = 0;
  for (let look = 0; look < LOOKS && late <= LATE_LOOKS_MAX; look++) {
    const at = offset + Math.floor((length * look) / LOOKS);
    const begun = performance.now();
    const bytes = Math.min(LOOK_BYTES, offset + length - at);
    const { bytesRead } = await file.read(buffer, 0, bytes, at);
    const seconds = (performance.now() - begun) / 1000;
    if (bytesRead / seconds < CACHED_BYTES_PER_SECOND) late += 1;
  }
  return late <= LATE_LOOKS_MAX;
}

/** In the order of their first bytes in each file; files in the order in which they come. */
export function mergedRanges(ranges: readonly FileRange[]): FileRange[] {
  const merged: FileRange[] = [];
  for (const [file, own] of Map.groupBy(ranges, (range) => range.file)) {
    for (const { offset, length } of own.toSorted((a, b) => a.offset - b.offset)) {
      const last = merged.at(-1);
      const lastEnd = last === undefined ? 0 : last.offset + last.length;
      if (last?.file === file && offset <= lastEnd + GAP_BYTES) {
        const end = Math.max(lastEnd, offset + length);
        merged[merged.length - 1] = { file, offset: last.offset, length: end - last.offset };
      } else {
        merged.push({ file, offset, length });
      }
    }
  }
  return merged;
}
