/** Digests of files and of bytes, as the hub lists them. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import type { ListedDigest } from "../../core/hub/model-files.ts";

const READ_BYTES = 2 ** 20;

export function digestOfBytes({ algorithm, prefix }: ListedDigest, bytes: Uint8Array): string {
  return createHash(algorithm).update(prefix).update(bytes).digest("hex");
}

export async function digestOfFile(
  { algorithm, prefix }: ListedDigest,
  file: string,
  onBytes?: (bytes: number) => void,
): Promise<string> {
  const hash = createHash(algorithm).update(prefix);
  for await (const part of createReadStream(file, { highWaterMark: READ_BYTES })) {
    hash.update(part as Buffer);
    onBytes?.((part as Buffer).length);
  }
  return hash.digest("hex");
}
