/**
 * A digest that tells two model folders apart, at a cost that a start can afford: sha256 over every
 * small file in full, every weight file of up to 64 MiB in full, and of larger ones the size, the
 * first 4 MiB (the header and more) and 64 samples of 64 KiB spread evenly to the last byte. Two
 * large files of equal size and header that differ only between the samples are not told apart:
 * this identifies a model that somebody published, it does not prove that a copy is intact.
 */
import { createHash, type Hash } from "node:crypto";
import { open } from "node:fs/promises";
import { relative } from "node:path";

const WHOLE_BYTES_MAX = 64 * 2 ** 20;
const HEAD_BYTES = 4 * 2 ** 20;
const SAMPLE_BYTES = 64 * 2 ** 10;
const SAMPLES = 64;

/** Byte ranges of a file of that size that the digest reads: [position, length]. */
export function digestRanges(fileBytes: number): readonly (readonly [number, number])[] {
  if (fileBytes <= WHOLE_BYTES_MAX) return chunks(fileBytes);
  const last = fileBytes - SAMPLE_BYTES;
  const samples = Array.from({ length: SAMPLES }, (_, index): [number, number] => [
    Math.floor(HEAD_BYTES + ((last - HEAD_BYTES) * index) / (SAMPLES - 1)),
    SAMPLE_BYTES,
  ]);
  return [[0, HEAD_BYTES], ...samples];
}

function chunks(fileBytes: number): readonly (readonly [number, number])[] {
  const count = Math.ceil(fileBytes / HEAD_BYTES);
  return Array.from({ length: count }, (_, index) => {
    const position = index * HEAD_BYTES;
    return [position, Math.min(HEAD_BYTES, fileBytes - position)];
  });
}

export async function checkpointDigest(
  directory: string,
  texts: ReadonlyMap<string, string>,
  weightFiles: ReadonlySet<string>,
): Promise<string> {
  const hash = createHash("sha256");
  for (const [name, text] of [...texts].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    hash.update(`text ${name} ${Buffer.byteLength(text)}\n`).update(text);
  }
  for (const file of [...weightFiles].toSorted()) await hashWeights(hash, directory, file);
  return hash.digest("hex");
}

async function hashWeights(hash: Hash, directory: string, file: string): Promise<void> {
  const handle = await open(file, "r");
  try {
    const { size } = await handle.stat();
    hash.update(`weights ${relative(directory, file)} ${size}\n`);
    const buffer = Buffer.allocUnsafe(Math.min(HEAD_BYTES, size));
    for (const [position, length] of digestRanges(size)) {
      const { bytesRead } = await handle.read(buffer, 0, length, position);
      hash.update(buffer.subarray(0, bytesRead));
    }
  } finally {
    await handle.close();
  }
}
