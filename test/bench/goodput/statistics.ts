/** The few figures that a benchmark of latencies needs. */
import { assert } from "@fluxline/kernel/assert.ts";

/** Two-sided 95% points of Student's t by degrees of freedom, from 1. */
const T_95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201];

export interface Estimate {
  readonly mean: number;
  /** The mean's 95% interval is mean +- margin; 0 for one value. */
  readonly margin: number;
}

export function estimate(values: readonly number[]): Estimate {
  assert(values.length > 0, "no values to estimate from");
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (values.length === 1) return { mean, margin: 0 };
  const t = T_95[values.length - 2];
  assert(t !== undefined, `no t value for ${values.length} values`);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const error = Math.sqrt(squares / (values.length - 1) / values.length);
  return { mean, margin: t * error };
}
