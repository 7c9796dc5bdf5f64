/**
 * Which models of the cache make room for another: whole commits, the one unused for longest first,
 * never one that is in use, and none at all when even all of them would not do.
 */
export interface CachedCommit {
  readonly id: string;
  readonly bytes: number;
  readonly lastUseMs: number;
  readonly inUse: boolean;
}

export type EvictionChoice =
  | { readonly kind: "fits"; readonly evict: readonly string[] }
  | { readonly kind: "too-large"; readonly usedBytes: number; readonly removableBytes: number };

/** `neededBytes` more are to be stored, for a commit that counts as in use. */
export function chooseEviction(
  commits: readonly CachedCommit[],
  neededBytes: number,
  bytesMax: number,
): EvictionChoice {
  const usedBytes = commits.reduce((sum, { bytes }) => sum + bytes, 0);
  const idle = commits
    .filter(({ inUse, bytes }) => !inUse && bytes > 0)
    .toSorted((a, b) => a.lastUseMs - b.lastUseMs);
  const evict: string[] = [];
  let left = usedBytes + neededBytes;
  for (const { id, bytes } of idle) {
    if (left <= bytesMax) break;
    evict.push(id);
    left -= bytes;
  }
  if (left <= bytesMax) return { kind: "fits", evict };
  const removableBytes = idle.reduce((sum, { bytes }) => sum + bytes, 0);
  return { kind: "too-large", usedBytes, removableBytes };
}
