/**
 * What one step of one row costs, per shape, as measured while running: the figure that ETA,
 * fair share and autoscaling reckon with. A moving average, so that it follows the device.
 */

/** Weight of a new measurement once there are enough of them. */
const NEW_WEIGHT = 0.1;
/** Shapes kept; the least recently seen goes first. */
const SHAPES_MAX = 256;

export interface StepCost {
  readonly shapeKey: string;
  /** One step of one row of this shape, alone. */
  readonly seconds: number;
  readonly samples: number;
}

export class StepCostTable {
  readonly #costs = new Map<string, { seconds: number; samples: number }>();

  /** Only batches of one row say what a row costs alone. */
  observe(shapeKey: string, rows: number, seconds: number): void {
    if (rows !== 1) return;
    const known = this.#costs.get(shapeKey) ?? { seconds: 0, samples: 0 };
    this.#costs.delete(shapeKey);
    const samples = known.samples + 1;
    const weight = Math.max(NEW_WEIGHT, 1 / samples);
    this.#costs.set(shapeKey, {
      seconds: known.seconds + weight * (seconds - known.seconds),
      samples,
    });
    const [oldest] = this.#costs.keys();
    if (this.#costs.size > SHAPES_MAX && oldest !== undefined) this.#costs.delete(oldest);
  }

  all(): StepCost[] {
    return [...this.#costs].map(([shapeKey, cost]) => ({ shapeKey, ...cost }));
  }
}
