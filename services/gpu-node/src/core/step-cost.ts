/**
 * What a step costs, per shape and rows of a batch, as measured while running: the figures by which
 * the batcher chooses sizes and charges tenants, and that ETA, fair share and autoscaling reckon
 * with. Seconds are those of the slowest stage: what a further batch waits for.
 *
 * The first run of a size is not counted: it pays for what is set up only once. Of the next few the
 * fastest counts, since a busy machine only makes steps slower; then a moving average follows the
 * device, and one run that took far too long moves it but little.
 */
import { assert } from "@fluxline/kernel/assert.ts";

/** Runs of a size that set things up. */
const WARM_UP_RUNS = 1;
/** Samples of which the fastest counts. */
const FIRST_SAMPLES = 3;
/** Weight of a new sample once there are enough of them. */
const NEW_WEIGHT = 0.1;
/** ... and after so long without one that the device may have changed. */
const NEW_WEIGHT_AFTER_PAUSE = 0.5;
const PAUSE_RUNS = 128;
/** A sample counts as at most this many times the average. */
const OUTLIER = 2;
/** Shapes kept; the least recently seen goes first. */
const SHAPES_MAX = 256;
/** After a failure, larger batches of the shape are not formed for this many of its runs. */
const CAPPED_RUNS = 512;
const CAPPED_RUNS_MAX = 65_536;
/** Charged for a row while nothing at all is measured: little, and the same for all. */
const UNMEASURED_SECONDS = 0.001;

/** A step of so many rows: true classifier-free guidance takes two for each image. */
export interface BatchCost {
  readonly rows: number;
  readonly seconds: number;
  readonly samples: number;
}

export interface StepCost {
  readonly shapeKey: string;
  readonly batches: readonly BatchCost[];
}

interface SizeCosts extends BatchCost {
  seconds: number;
  samples: number;
  runs: number;
  /** How often it was tried to learn what it costs. */
  trials: number;
  /** Of the shape, when it was last run or tried. */
  lastRun: number;
}

/** One shape's costs, by rows. */
export class ShapeCosts {
  readonly #sizes = new Map<number, SizeCosts>();
  #runs = 0;
  #rowsMax = Infinity;
  #cappedUntilRun = 0;
  #cappedRuns = CAPPED_RUNS;
  /** Rows of a batch under which the runner died, until as many have succeeded. */
  #diedRows = Infinity;

  observe(rows: number, seconds: number): void {
    assert(rows >= 1 && seconds >= 0, `${rows} rows took ${seconds} s`);
    const size = this.#size(rows);
    const paused = this.#runs - size.lastRun >= PAUSE_RUNS;
    this.#runs += 1;
    size.lastRun = this.#runs;
    size.runs += 1;
    if (rows >= this.#diedRows) this.#diedRows = Infinity;
    if (size.runs <= WARM_UP_RUNS) return;
    size.samples += 1;
    if (size.samples === 1) size.seconds = seconds;
    else if (size.samples <= FIRST_SAMPLES) size.seconds = Math.min(size.seconds, seconds);
    else {
      const weight = paused ? NEW_WEIGHT_AFTER_PAUSE : NEW_WEIGHT;
      const counted = Math.min(seconds, size.seconds * OUTLIER);
      size.seconds += weight * (counted - size.seconds);
    }
  }

  /** The batch of so many rows is run to learn what it costs. */
  tried(rows: number): void {
    const size = this.#size(rows);
    size.trials += 1;
    size.lastRun = this.#runs;
  }

  /** The device could not do so many rows: at most half of them for a while, longer each time. */
  failed(rows: number): void {
    // A larger batch may have been in flight when a smaller one failed: it lifts no limit.
    this.#rowsMax = Math.min(this.rowsMax, Math.max(1, rows >> 1));
    this.#cappedUntilRun = this.#runs + this.#cappedRuns;
    this.#cappedRuns = Math.min(this.#cappedRuns * 2, CAPPED_RUNS_MAX);
  }

  /** A runner may die by chance, or of one row; twice without a success says that it was too much. */
  died(rows: number): void {
    if (rows >= this.#diedRows) this.failed(rows);
    this.#diedRows = Math.min(this.#diedRows, rows);
  }

  get rowsMax(): number {
    return this.#runs < this.#cappedUntilRun ? this.#rowsMax : Infinity;
  }

  trials(rows: number): number {
    return this.#sizes.get(rows)?.trials ?? 0;
  }

  /** Runs of this shape since that size was last run or tried. */
  runsSince(rows: number): number {
    return this.#runs - (this.#sizes.get(rows)?.lastRun ?? 0);
  }

  /** By rows, fewest first. */
  measured(): BatchCost[] {
    return [...this.#sizes.values()]
      .filter(({ samples }) => samples > 0)
      .sort((a, b) => a.rows - b.rows)
      .map(({ rows, seconds, samples }) => ({ rows, seconds, samples }));
  }

  /** Seconds of one row by itself; of the smallest batch that was measured, its part. */
  get rowSeconds(): number | undefined {
    const one = this.#sizes.get(1);
    if (one !== undefined && one.samples > 0) return one.seconds;
    let smallest: SizeCosts | undefined;
    for (const size of this.#sizes.values()) {
      if (size.samples > 0 && size.rows < (smallest?.rows ?? Infinity)) smallest = size;
    }
    return smallest && smallest.seconds / smallest.rows;
  }

  #size(rows: number): SizeCosts {
    const known = this.#sizes.get(rows);
    if (known !== undefined) return known;
    const size = { rows, seconds: 0, samples: 0, runs: 0, trials: 0, lastRun: this.#runs };
    this.#sizes.set(rows, size);
    return size;
  }
}

export class StepCostTable {
  readonly #shapes = new Map<string, ShapeCosts>();
  /** Of one row of the shape that was measured last. */
  #lastRowSeconds: number | undefined;

  observe(shapeKey: string, rows: number, seconds: number): void {
    const costs = this.shape(shapeKey);
    costs.observe(rows, seconds);
    this.#lastRowSeconds = costs.rowSeconds ?? this.#lastRowSeconds;
  }

  /** The shape's costs, known or not; it counts as seen. */
  shape(shapeKey: string): ShapeCosts {
    const costs = this.#shapes.get(shapeKey) ?? new ShapeCosts();
    this.#shapes.delete(shapeKey);
    this.#shapes.set(shapeKey, costs);
    const [oldest] = this.#shapes.keys();
    if (this.#shapes.size > SHAPES_MAX && oldest !== undefined) this.#shapes.delete(oldest);
    return costs;
  }

  /** Seconds of one row by itself, if something of the shape is measured. */
  rowSeconds(shapeKey: string): number | undefined {
    return this.#shapes.get(shapeKey)?.rowSeconds;
  }

  /** What a row of the shape is charged: of one that is new, as one of the shape measured last. */
  chargeSeconds(shapeKey: string): number {
    return this.rowSeconds(shapeKey) ?? this.#lastRowSeconds ?? UNMEASURED_SECONDS;
  }

  /** Of every shape of which something is measured. */
  all(): StepCost[] {
    return [...this.#shapes]
      .map(([shapeKey, costs]) => ({ shapeKey, batches: costs.measured() }))
      .filter(({ batches }) => batches.length > 0);
  }
}
