/**
 * How many rows the next batch of a shape gets: the size that gives the most useful rows per second
 * among those that were measured and can be filled. What a larger batch gains is never assumed: a
 * size that was not run yet is tried a few times, and one that is rarely used is tried again from
 * time to time, ever less often. Where a larger batch gains nothing, batches stay small, and
 * requests end one after another instead of all at the end.
 *
 * A batch that is led by a request with a deadline is no larger than lets the leader meet it.
 *
 * Over S stages, S batches must be in flight: a size counts for as many stages as it could keep busy.
 *
 *   score(n) = min(S, floor(rows here / n)) * n / seconds(n)
 */
import type { ShapeCosts } from "./step-cost.ts";

/** Runs of a size to learn what it costs: the first does not count, two do. */
const TRIALS_MAX = 3;
/** Runs of the shape after which a size is tried again; after each further trial, twice as many. */
const TRIAL_AGAIN_RUNS = 512;
const TRIAL_AGAIN_RUNS_MAX = 8_192;
/** A larger size must give this much more. */
const GAIN_MIN = 1.05;
/** Measured times that differ by less are the same. */
const NO_LONGER = 1.05;

export interface SizeQuestion {
  /** The leader's own rows: no batch is smaller. */
  readonly least: number;
  /** Rows that could be in it; at least `least`. */
  readonly most: number;
  /** All rows here that wait for a step or are in one, of any shape. */
  readonly rowsHere: number;
  readonly stages: number;
  /** What the batch may take, if the leader is to meet its deadline; `least` rows always may. */
  readonly secondsMax?: number;
}

export interface SizeAnswer {
  readonly rows: number;
  /** It is tried to learn what it costs. */
  readonly isTrial: boolean;
}

/**
 * Sizes that are tried: powers of two; and near the best of them, if that is more than one row, 1
 * to 8, then eighths of the way to the next power of two.
 */
export function isTriedSize(rows: number, best: number): boolean {
  let step = 1;
  while (rows > 8 * step) step *= 2;
  const isNear = best > 1 && 2 * rows > best && rows < 2 * best;
  return Number.isInteger(Math.log2(rows)) || (isNear && rows % step === 0);
}

export function chooseSize(costs: ShapeCosts, question: SizeQuestion): SizeAnswer {
  const { least, rowsHere, stages } = question;
  const most = Math.max(least, Math.min(question.most, costs.rowsMax));
  // A size that leaves stages empty is no use while there are so few rows.
  const triedMost = Math.min(most, Math.max(least, Math.floor(rowsHere / stages)));
  const best = bestMeasured(costs, { ...question, most, secondsMax: Infinity });
  for (let rows = least; rows <= triedMost; rows++) {
    if (isTriedSize(rows, best) && wantsTrial(costs, rows)) return { rows, isTrial: true };
  }
  return { rows: bestMeasured(costs, { ...question, most }), isTrial: false };
}

function wantsTrial(costs: ShapeCosts, rows: number): boolean {
  const further = costs.trials(rows) - TRIALS_MAX;
  if (further < 0) return true;
  const pause = Math.min(TRIAL_AGAIN_RUNS * 2 ** further, TRIAL_AGAIN_RUNS_MAX);
  return costs.runsSince(rows) >= pause;
}

function bestMeasured(costs: ShapeCosts, question: SizeQuestion): number {
  const { least, most, rowsHere, stages, secondsMax = Infinity } = question;
  let best = { rows: least, score: 0 };
  let allowed = secondsMax;
  for (const { rows, seconds } of costs.measured()) {
    if (rows < least || rows > most) continue;
    // Where more rows take no longer than the fewest, nothing is lost by them.
    if (rows === least) allowed = Math.max(allowed, seconds * NO_LONGER);
    if (seconds > allowed) continue;
    const busyStages = Math.min(stages, Math.max(1, Math.floor(rowsHere / rows)));
    const score = (busyStages * rows) / Math.max(seconds, Number.MIN_VALUE);
    if (score > best.score * GAIN_MIN) best = { rows, score };
  }
  return best.rows;
}
