/**
 * What we know of one weight file of the cache: which version it is of and which of its bytes are
 * there. The file itself is sparse and of full size, so it cannot tell. A range stands here only
 * after its bytes are on the disk; what stands here is true even after a crash.
 */
import { z } from "zod";
import { byteCount, type ByteRanges, byteSet, union } from "./byte-ranges.ts";

const MANIFEST_VERSION = 1;

export interface WeightManifest {
  /** Inside the repository, like `transformer/diffusion_pytorch_model.safetensors`. */
  readonly path: string;
  readonly size: number;
  readonly commit: string;
  /** Of the version of which all ranges are; undefined before the first of them. */
  readonly etag: string | undefined;
  /** In hex, where the hub gives one. */
  readonly sha256: string | undefined;
  readonly ranges: ByteRanges;
  /** All bytes are there and had the digest that the hub lists. */
  readonly verified: boolean;
}

const offset = z.number().int().nonnegative();
const schema = z.object({
  version: z.literal(MANIFEST_VERSION),
  path: z.string(),
  size: offset,
  commit: z.string(),
  etag: z.string().optional(),
  sha256: z.string().optional(),
  ranges: z.array(z.tuple([offset, offset])),
  verified: z.boolean(),
});

/** Undefined for a text that is none, or speaks of another file: then nothing is there. */
export function parseManifest(
  text: string,
  file: Pick<WeightManifest, "path" | "size" | "commit">,
): WeightManifest | undefined {
  const parsed = schema.safeParse(jsonOf(text));
  if (!parsed.success) return undefined;
  const { path, size, commit, etag, sha256, ranges, verified } = parsed.data;
  if (path !== file.path || size !== file.size || commit !== file.commit) return undefined;
  if (ranges.some(([begin, end]) => begin >= end || end > size)) return undefined;
  return { path, size, commit, etag, sha256, ranges: byteSet(ranges), verified };
}

export function manifestText(manifest: WeightManifest): string {
  return `${JSON.stringify({ version: MANIFEST_VERSION, ...manifest })}\n`;
}

export function withRanges(manifest: WeightManifest, added: ByteRanges): WeightManifest {
  return { ...manifest, ranges: union(manifest.ranges, added) };
}

export function isWhole({ ranges, size }: WeightManifest): boolean {
  return byteCount(ranges) === size;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // cut short by a crash: as good as none
  }
}
