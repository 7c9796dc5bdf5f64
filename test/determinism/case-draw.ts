/**
 * Draws the parts of a case: who is served, by which groups, among whom. What is drawn depends on the
 * seed and the case's own name alone, so that a case can be run again by itself.
 */
import { Random } from "@fluxline/kernel/random.ts";
import { type CatalogueEntry, rowsOf } from "./catalogue.ts";
import type { CaseSource, GroupShape, Kill, Leg } from "./matrix-case.ts";

export const ROWS_MAX = 8;
export const STAGES_MAX = 4;
export const THREADS = [1, 2] as const;
export const WHOLE: GroupShape = { cuts: [], threads: 1, linked: false };

/** Every way to cut `blocks` into 1 to `STAGES_MAX` stages. */
export function allCuts(blocks: number): readonly (readonly number[])[] {
  const after = (first: number, more: number): number[][] =>
    more === 0
      ? [[]]
      : Array.from({ length: Math.max(0, blocks - first) }, (_, i) => first + i).flatMap((cut) =>
          after(cut + 1, more - 1).map((rest) => [cut, ...rest]),
        );
  return Array.from({ length: STAGES_MAX }, (_, stages) => after(1, stages)).flat();
}

/** Is still there when the last of those that fill a batch has been encoded, one after each step. */
export function lasts({ steps }: CatalogueEntry, rows: number): boolean {
  return steps > rows + 4;
}

export function stageCounts({ blocks }: CaseSource): readonly number[] {
  return Array.from({ length: Math.min(STAGES_MAX, blocks) }, (_, i) => i + 1);
}

/** Every number of stages, each with one thread a stage and with two. */
export function fleetOf(source: CaseSource): readonly GroupShape[] {
  const draw = new CaseDraw(source, `${source.model}/fleet`);
  return stageCounts(source).flatMap((stages) => {
    const cuts = allCuts(source.blocks).filter(({ length }) => length === stages - 1);
    return THREADS.map((threads) => ({ ...WHOLE, cuts: draw.pick(cuts), threads }));
  });
}

/**
 * The groups between which requests move: one stage with either number of threads, and more with
 * one of the two. They are few, because each is real processes to be started; every cut has a case
 * of its own.
 */
export function roamedOf(source: CaseSource): readonly GroupShape[] {
  return fleetOf(source).filter(({ cuts, threads }) => {
    return cuts.length === 0 || threads === THREADS[cuts.length % THREADS.length];
  });
}

interface LegOptions {
  readonly rows: number;
  /** Strangers that stay and whose rows are just enough, so that batches do fill. */
  readonly full?: boolean;
  readonly kills?: readonly Kill[];
  readonly until?: number;
}

/** Draws for one case; its generator depends on the seed and the case's name, nothing else. */
export class CaseDraw {
  readonly random: Random;
  readonly #source: CaseSource;

  constructor(source: CaseSource, name: string) {
    this.#source = source;
    let hash = source.seed >>> 0;
    for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0)!, 0x01000193) >>> 0;
    this.random = new Random(hash);
  }

  /** A catalogue number whose entry will do. */
  subject(fits: (entry: CatalogueEntry) => boolean): number {
    const numbers = [...this.#source.catalogue.keys()].filter((number) =>
      fits(this.#source.catalogue[number]!),
    );
    return this.pick(numbers);
  }

  /** One leg, with strangers enough to fill the batches of every stage. */
  leg(subject: number, group: GroupShape, options: LegOptions): Leg {
    const { rows, full = false, kills = [], until } = options;
    const { catalogue } = this.#source;
    const own = catalogue[subject]!;
    const wanted = rows * (group.cuts.length + 1) - rowsOf(own);
    const strangers: number[] = [];
    let others = 0;
    const add = (places: number): number => {
      const number = this.pick([...catalogue.keys()]);
      const stranger = catalogue[number]!;
      if (stranger.shape !== own.shape) {
        // Those of another shape only come between; one at most.
        if (others++ === 0) strangers.push(number);
        return 0;
      }
      if (stranger.passes > places) return 0;
      // Whoever is to fill a batch exactly comes whole, and is still there when it is full.
      if (full && (rowsOf(stranger) > places || !lasts(stranger, rows))) return 0;
      strangers.push(number);
      return rowsOf(stranger);
    };
    for (let inShape = 0; inShape < wanted;) inShape += add(wanted - inShape);
    const before = this.random.below(strangers.length + 1);
    return { group, rows, strangers, before, kills, until };
  }

  /** A request that is moved so many times, each leg in another group; killed in some legs. */
  journey(moves: number, killed: readonly number[]): { subject: number; legs: readonly Leg[] } {
    const subject = this.subject(({ steps }) => steps > 2 * moves + 1);
    const { steps } = this.#source.catalogue[subject]!;
    const boundaries = this.#boundaries(moves, steps);
    const fleet = roamedOf(this.#source);
    let last: GroupShape | undefined;
    const legs = Array.from({ length: moves + 1 }, (_, number) => {
      const group = this.pick(fleet.filter((one) => one !== last));
      last = group;
      const [from, to] = [boundaries[number - 1] ?? 0, boundaries[number] ?? steps];
      // Not the very next boundary: it may have been passed when the subject arrives.
      const between = to - from - 2;
      const edge = number === moves ? "decoding" : "encoding";
      const at: Kill["at"] = between > 0 ? from + 2 + this.random.below(between) : edge;
      const rank = this.random.below(STAGES_MAX);
      const kills = killed.includes(number) ? [{ at, rank }] : [];
      const rows = 1 + this.random.below(ROWS_MAX);
      const until = boundaries[number];
      return this.leg(subject, group, { rows, kills, ...(until !== undefined && { until }) });
    });
    return { subject, legs };
  }

  /** Ascending boundaries, two steps apart: the step that was under way when it was taken counts. */
  #boundaries(moves: number, steps: number): number[] {
    const free = steps - 1 - 2 * moves;
    const gaps = Array.from({ length: moves }, () => this.random.below(free + 1));
    return gaps.toSorted((a, b) => a - b).map((gap, number) => gap + 1 + 2 * number);
  }

  pick<T>(values: readonly T[]): T {
    return values[this.random.below(values.length)]!;
  }
}
