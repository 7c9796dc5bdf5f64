/**
 * Who asks for what, and when: a Poisson stream of requests with mixed steps and sizes, from a
 * seed. Times are in mean gaps between two arrivals, so that the very same stream can be offered
 * at any rate: a search over rates changes how fast it comes and nothing else.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { Random } from "@fluxline/kernel/random.ts";

export interface Mix {
  readonly name: string;
  /** Sizes and how often each is asked for; weights need not sum to 1. */
  readonly sizes: readonly { readonly size: string; readonly weight: number }[];
  /** Each is as likely as the others. */
  readonly steps: readonly number[];
}

export interface Arrival {
  readonly id: string;
  /** Mean gaps since the start; divided by a rate it is a time. */
  readonly atGaps: number;
  readonly size: string;
  readonly steps: number;
}

export function arrivals(mix: Mix, count: number, seed: number): Arrival[] {
  const root = new Random(seed);
  const [gaps, sizes, steps] = [root.fork(), root.fork(), root.fork()];
  let atGaps = 0;
  return Array.from({ length: count }, (_, index) => {
    atGaps += -Math.log(1 - gaps.float());
    return {
      id: `r${index}`,
      atGaps,
      size: pickSize(mix, sizes.float()),
      steps: mix.steps[steps.below(mix.steps.length)]!,
    };
  });
}

function pickSize({ sizes }: Mix, draw: number): string {
  const total = sizes.reduce((sum, { weight }) => sum + weight, 0);
  let left = draw * total;
  for (const { size, weight } of sizes) {
    if (left < weight) return size;
    left -= weight;
  }
  const last = sizes.at(-1);
  assert(last !== undefined, "a mix has at least one size");
  return last.size;
}

/** Whole numbers from `first` to `last`. */
export function stepRange(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

/** Mean over what the mix asks for. */
export function mixMean(mix: Mix, value: (size: string, steps: number) => number): number {
  const total = mix.sizes.reduce((sum, { weight }) => sum + weight, 0);
  return mix.sizes.reduce((sum, { size, weight }) => {
    const values = mix.steps.map((steps) => value(size, steps));
    const mean = values.reduce((all, one) => all + one, 0) / values.length;
    return sum + (weight / total) * mean;
  }, 0);
}
