/**
 * The highest rate at which something holds. It must hold at low rates and fail at high ones; one
 * change from one to the other is found, by growing a bracket and then halving it, in logarithms.
 */
import { assert } from "@fluxline/kernel/assert.ts";

const GROWTH = 1.5;
/** 1.5^64 is more than any device gains. */
const GROWTHS_MAX = 64;

export interface RateRange {
  /** The first rate to try. */
  readonly start: number;
  /** Below this nothing is looked for: the answer is 0. */
  readonly lowest: number;
  /** The bracket's ratio at which the search ends: 1.01 for one percent. */
  readonly ratio: number;
}

export function highestRate(holds: (rate: number) => boolean, range: RateRange): number {
  const { start, lowest, ratio } = range;
  assert(start >= lowest && lowest > 0 && ratio > 1, "a rate range is start >= lowest > 0");
  let good = 0;
  let bad = Infinity;
  let rate = start;
  for (let grown = 0; good === 0 || bad === Infinity; grown++) {
    assert(grown < GROWTHS_MAX, `no end of the rates that hold at ${good}`);
    if (holds(rate)) good = rate;
    else if (rate <= lowest) return 0;
    else bad = rate;
    rate = good === 0 ? Math.max(lowest, bad / GROWTH) : good * GROWTH;
  }
  while (bad / good > ratio) {
    rate = Math.sqrt(bad * good);
    if (holds(rate)) good = rate;
    else bad = rate;
  }
  return good;
}
