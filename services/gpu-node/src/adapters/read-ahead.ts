/**
 * Brings weights into the page cache while a runtime loads them. The runtime maps the files and
 * touches them page by page, so that a cold disk is asked for little at a time; reading the same
 * bytes in large pieces beside it is faster than its faults, and they then find them there.
 *
 * What comes faster than from a disk was in memory already: the stretch behind it is taken to be,
 * too, and only looked into. So a warm start pays for a few looks and no second reading.
 */
import { type FileHandle, open } from "node:fs/promises";
import type { FileRange } from "../core/image-model.ts";

const MIB = 1024 * 1024;
const PIECE_BYTES = 4 * MIB;
/** Passed over after a piece that was in memory. */
const STRETCH_BYTES = 64 * MIB;
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
  { offset, length }: FileRange,
  buffer: Buffer,
  signal: AbortSignal,
): Promise<void> {
  const end = offset + length;
  for (let at = offset; at < end && !signal.aborted;) {
    const begun = performance.now();
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, end - at), at);
    if (bytesRead === 0) return;
    const seconds = (performance.now() - begun) / 1000;
    at += bytesRead;
    const wasCached = bytesRead / seconds > CACHED_BYTES_PER_SECOND;
    if (wasCached) at += STRETCH_BYTES;
  }
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
