/**
 * Sets of bytes of one file, as sorted ranges that neither touch nor overlap: what is there, what is
 * needed, and so what is missing. A byte is in a set or not, so nothing is ever counted twice.
 */
import { assert } from "@fluxline/kernel/assert.ts";

/** From `begin` up to but not including `end`. */
export type ByteRange = readonly [begin: number, end: number];

export type ByteRanges = readonly ByteRange[];

/** Any ranges, in any order, as a set. */
export function byteSet(ranges: Iterable<ByteRange>): ByteRanges {
  const sorted = [...ranges].filter(([begin, end]) => end > begin).toSorted(([a], [b]) => a - b);
  const set: [number, number][] = [];
  for (const [begin, end] of sorted) {
    assert(begin >= 0 && Number.isSafeInteger(end), `${begin}-${end} is no range of a file`);
    const last = set.at(-1);
    if (last !== undefined && begin <= last[1]) last[1] = Math.max(last[1], end);
    else set.push([begin, end]);
  }
  return set;
}

export function union(...sets: readonly ByteRanges[]): ByteRanges {
  return byteSet(sets.flat());
}

/** What of `set` is not in `other`. */
export function difference(set: ByteRanges, other: ByteRanges): ByteRanges {
  const left: ByteRange[] = [];
  let index = 0;
  for (const [begin, end] of set) {
    let at = begin;
    while (index < other.length && other[index]![1] <= at) index += 1;
    for (let next = index; next < other.length && other[next]![0] < end; next += 1) {
      const [otherBegin, otherEnd] = other[next]!;
      if (otherBegin > at) left.push([at, otherBegin]);
      at = Math.max(at, otherEnd);
    }
    if (at < end) left.push([at, end]);
  }
  return left;
}

export function byteCount(set: ByteRanges): number {
  return set.reduce((sum, [begin, end]) => sum + end - begin, 0);
}

export function covers(set: ByteRanges, needed: ByteRanges): boolean {
  return difference(needed, set).length === 0;
}

/**
 * `missing` with gaps of up to `gapMax` closed, where none of the gap is there already: one request
 * more costs more than a few bytes more, and no byte is fetched again.
 */
export function closeGaps(missing: ByteRanges, present: ByteRanges, gapMax: number): ByteRanges {
  const gaps = missing.slice(1).flatMap(([begin], index): ByteRange[] => {
    const gap: ByteRange = [missing[index]![1], begin];
    const isFree = byteCount(difference([gap], present)) === begin - gap[0];
    return begin - gap[0] <= gapMax && isFree ? [gap] : [];
  });
  return union(missing, gaps);
}

/** Cut into pieces of at most `bytesMax`, in order. */
export function pieces(set: ByteRanges, bytesMax: number): ByteRanges {
  assert(bytesMax > 0, "a piece has at least one byte");
  return set.flatMap(([begin, end]) => {
    const count = Math.ceil((end - begin) / bytesMax);
    return Array.from({ length: count }, (_, index): ByteRange => {
      const from = begin + index * bytesMax;
      return [from, Math.min(end, from + bytesMax)];
    });
  });
}
