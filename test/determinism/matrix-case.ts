/**
 * The cases of the determinism matrix: one request, and the way in which it is served. It may be
 * served in several legs; at the end of each it is taken away at a step boundary and carried to the
 * next group, which has other stages, threads and batch mates. A case is drawn from the seed and
 * its own name alone, so that it can be run again by itself.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { type CatalogueEntry, rowsOf } from "./catalogue.ts";

/** A replica group as far as it may matter: where it is cut, and the threads of each stage. */
export interface GroupShape {
  /** First blocks of stages 1, 2, ..; none: one stage. */
  readonly cuts: readonly number[];
  readonly threads: number;
  /** Stages 1 and on are processes of their own, reached by links; otherwise only runners. */
  readonly linked: boolean;
}

export interface Kill {
  /** What the subject has just begun, or the boundary that it has reached. */
  readonly at: "encoding" | "decoding" | number;
  /** Which stage's runner; modulo the stages there are. */
  readonly rank: number;
}

export interface Leg {
  readonly group: GroupShape;
  /** Rows of a batch, passes counted. */
  readonly rows: number;
  /** Catalogue numbers, in order of arrival; begun again from the first when they have ended. */
  readonly strangers: readonly number[];
  /** Strangers that arrive before the subject. */
  readonly before: number;
  readonly kills: readonly Kill[];
  /** Boundary of the subject at which it is taken away; undefined in the last leg. */
  readonly until: number | undefined;
}

export interface MatrixCase {
  readonly name: string;
  readonly subject: number;
  readonly legs: readonly Leg[];
  /** Rows of a batch in which the subject must have been; otherwise it showed nothing. */
  readonly rowsToSee?: number;
}

/** What the cases of a model are drawn from. */
export interface CaseSource {
  readonly seed: number;
  readonly model: string;
  readonly blocks: number;
  readonly catalogue: readonly CatalogueEntry[];
}

const ROWS_MAX = 8;
const STAGES_MAX = 4;
const MOVES_MAX = 5;
const THREADS = [1, 2] as const;
const BATCH_REPEATS = 3;
const MOVE_REPEATS = 6;
const MIXED_CASES = 40;

const WHOLE: GroupShape = { cuts: [], threads: 1, linked: false };

export function matrixCases(source: CaseSource): readonly MatrixCase[] {
  return [
    ...batchCases(source),
    ...cutCases(source),
    ...threadCases(source),
    ...moveCases(source),
    ...killCases(source),
    ...linkCases(source),
    ...mixedCases(source),
  ];
}

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

/** Batches of 1 to 8 rows, with and without true guidance, whole and by one thread or two. */
function batchCases(source: CaseSource): MatrixCase[] {
  const sizes = Array.from({ length: ROWS_MAX }, (_, i) => i + 1);
  return sizes.flatMap((rows) =>
    [1, 2]
      .filter((passes) => passes <= rows)
      .flatMap((passes) =>
        Array.from({ length: BATCH_REPEATS }, (_, repeat) => {
          const name = `${source.model}/batch/${rows}-${passes === 2 ? "cfg" : "plain"}-${repeat}`;
          const draw = drawFor(source, name);
          const subject = draw.subject((entry) => {
            return entry.passes === passes && rowsOf(entry) <= rows && lasts(entry, rows);
          });
          const group = { ...WHOLE, threads: THREADS[repeat % THREADS.length]! };
          return {
            name,
            subject,
            legs: [draw.leg(subject, group, { rows, full: true })],
            rowsToSee: rows,
          };
        }),
      ),
  );
}

/** Is still there when the last of those that fill a batch has been encoded, one after each step. */
function lasts({ steps }: CatalogueEntry, rows: number): boolean {
  return steps > rows + 4;
}

/** Every cut once, with batches of some size in flight. */
function cutCases(source: CaseSource): MatrixCase[] {
  return allCuts(source.blocks).map((cuts) => {
    const name = `${source.model}/cuts/${cuts.join("-") || "none"}`;
    const draw = drawFor(source, name);
    const rows = 1 + draw.random.below(4);
    const subject = draw.subject((entry) => rowsOf(entry) <= rows);
    return { name, subject, legs: [draw.leg(subject, { ...WHOLE, cuts }, { rows })] };
  });
}

function threadCases(source: CaseSource): MatrixCase[] {
  return THREADS.flatMap((threads) =>
    stageCounts(source).flatMap((stages) =>
      [1, 4].map((rows) => {
        const name = `${source.model}/threads/${threads}-stages-${stages}-rows-${rows}`;
        const draw = drawFor(source, name);
        const subject = draw.subject((entry) => rowsOf(entry) <= rows);
        const group = fleetOf(source).find((one) => {
          return one.threads === threads && one.cuts.length === stages - 1;
        });
        assert(group !== undefined, `the fleet has ${stages} stages of ${threads} threads`);
        return { name, subject, legs: [draw.leg(subject, group, { rows })] };
      }),
    ),
  );
}

function moveCases(source: CaseSource): MatrixCase[] {
  return Array.from({ length: MOVES_MAX + 1 }, (_, moves) => moves).flatMap((moves) =>
    Array.from({ length: MOVE_REPEATS }, (_, repeat) => {
      const name = `${source.model}/moves/${moves}-${repeat}`;
      const draw = drawFor(source, name);
      return { name, ...draw.journey(moves, []) };
    }),
  );
}

/** A runner dies at each boundary of a request in turn, while it is encoded, and decoded. */
function killCases(source: CaseSource): MatrixCase[] {
  const boundaries = Array.from({ length: 6 }, (_, i) => i + 1);
  return (["encoding", ...boundaries, "decoding"] as const).map((at) => {
    const name = `${source.model}/kills/${at}`;
    const draw = drawFor(source, name);
    const subject = draw.subject((entry) => entry.steps > boundaries.length);
    const group = draw.pick(roamedOf(source));
    const kills = [{ at, rank: draw.random.below(STAGES_MAX) }];
    const rows = 1 + draw.random.below(ROWS_MAX);
    return { name, subject, legs: [draw.leg(subject, group, { rows, kills })] };
  });
}

/**
 * Stages in processes of their own, as they are served: two to four of them, undisturbed, with the
 * death of a stage's runner, and as the second of two groups that a request moves between.
 */
function linkCases(source: CaseSource): MatrixCase[] {
  return stageCounts(source)
    .slice(1)
    .flatMap((stages) =>
      (["undisturbed", "killed", "moved"] as const).map((what) => {
        const name = `${source.model}/links/${stages}-${what}`;
        const draw = drawFor(source, name);
        const alone = fleetOf(source)[0]!;
        const linked = fleetOf(source).find(({ cuts }) => cuts.length === stages - 1)!;
        const group = { ...linked, threads: 1, linked: true };
        const rows = 1 + draw.random.below(4);
        const subject = draw.subject(({ steps }) => steps > 6);
        const kill = { at: 2 + draw.random.below(3), rank: draw.random.below(stages) };
        const kills = what === "killed" ? [kill] : [];
        const last = draw.leg(subject, group, { rows, kills });
        const first = draw.leg(subject, alone, { rows, until: 2 });
        return { name, subject, legs: what === "moved" ? [first, last] : [last] };
      }),
    );
}

/** Everything at once. */
function mixedCases(source: CaseSource): MatrixCase[] {
  return Array.from({ length: MIXED_CASES }, (_, number) => {
    const name = `${source.model}/mixed/${number}`;
    const draw = drawFor(source, name);
    const moves = draw.random.below(MOVES_MAX + 1);
    const killed = draw.random.below(3) === 0 ? [draw.random.below(moves + 1)] : [];
    return { name, ...draw.journey(moves, killed) };
  });
}

function stageCounts({ blocks }: CaseSource): readonly number[] {
  return Array.from({ length: Math.min(STAGES_MAX, blocks) }, (_, i) => i + 1);
}

/** Every number of stages, each with one thread a stage and with two. */
function fleetOf(source: CaseSource): readonly GroupShape[] {
  const draw = drawFor(source, `${source.model}/fleet`);
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
function roamedOf(source: CaseSource): readonly GroupShape[] {
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
class CaseDraw {
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

function drawFor(source: CaseSource, name: string): CaseDraw {
  return new CaseDraw(source, name);
}

/** What of the matrix a case shows, as `axis=value`. */
export function facetsOf({ subject, legs }: MatrixCase, source: CaseSource): readonly string[] {
  const { passes, images, shape } = source.catalogue[subject]!;
  return [
    `model=${source.model}`,
    `shape=${shape}`,
    `moves=${legs.length - 1}`,
    ...(passes === 2 ? ["guidance=true"] : []),
    ...(images > 1 ? ["images=several"] : []),
    ...legs.flatMap(({ group, rows, kills }) => [
      `rows=${rows}`,
      `stages=${group.cuts.length + 1}`,
      `threads=${group.threads}`,
      ...(group.linked ? ["links=stage processes"] : []),
      ...kills.map(() => (legs.length > 1 ? "kill=between moves" : "kill=alone")),
    ]),
  ];
}

/**
 * Cases that together show every facet that there is, each model by `perModel` cases or more: taken
 * in an order drawn from the seed, those that show nothing new left out.
 */
export function sampleOf(
  cases: readonly { readonly case: MatrixCase; readonly facets: readonly string[] }[],
  seed: number,
  perModel: number,
): readonly MatrixCase[] {
  const random = new Random(seed);
  const order = cases.map((one) => ({ ...one, place: random.uint32() }));
  order.sort((a, b) => a.place - b.place);
  const shown = new Map<string, number>();
  const wanted = (facet: string): number => (facet.startsWith("model=") ? perModel : 1);
  const sample: MatrixCase[] = [];
  for (const one of order) {
    if (one.facets.every((facet) => (shown.get(facet) ?? 0) >= wanted(facet))) continue;
    for (const facet of one.facets) shown.set(facet, (shown.get(facet) ?? 0) + 1);
    sample.push(one.case);
  }
  return sample;
}
