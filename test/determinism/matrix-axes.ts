/** Every case of the determinism matrix, axis by axis. */
import { assert } from "@fluxline/kernel/assert.ts";
import { rowsOf } from "./catalogue.ts";
import {
  allCuts,
  CaseDraw,
  fleetOf,
  lasts,
  roamedOf,
  ROWS_MAX,
  stageCounts,
  STAGES_MAX,
  THREADS,
  WHOLE,
} from "./case-draw.ts";
import type { CaseSource, MatrixCase } from "./matrix-case.ts";

const MOVES_MAX = 5;
const BATCH_REPEATS = 3;
const MOVE_REPEATS = 6;
const MIXED_CASES = 40;

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

/** Batches of 1 to 8 rows, with and without true guidance, whole and by one thread or two. */
function batchCases(source: CaseSource): MatrixCase[] {
  const sizes = Array.from({ length: ROWS_MAX }, (_, i) => i + 1);
  return sizes.flatMap((rows) =>
    [1, 2]
      .filter((passes) => passes <= rows)
      .flatMap((passes) =>
        Array.from({ length: BATCH_REPEATS }, (_, repeat) => {
          const name = `${source.model}/batch/${rows}-${passes === 2 ? "cfg" : "plain"}-${repeat}`;
          const draw = new CaseDraw(source, name);
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

/** Every cut once, with batches of some size in flight. */
function cutCases(source: CaseSource): MatrixCase[] {
  return allCuts(source.blocks).map((cuts) => {
    const name = `${source.model}/cuts/${cuts.join("-") || "none"}`;
    const draw = new CaseDraw(source, name);
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
        const draw = new CaseDraw(source, name);
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
      const draw = new CaseDraw(source, name);
      return { name, ...draw.journey(moves, []) };
    }),
  );
}

/** A runner dies at each boundary of a request in turn, while it is encoded, and decoded. */
function killCases(source: CaseSource): MatrixCase[] {
  const boundaries = Array.from({ length: 6 }, (_, i) => i + 1);
  return (["encoding", ...boundaries, "decoding"] as const).map((at) => {
    const name = `${source.model}/kills/${at}`;
    const draw = new CaseDraw(source, name);
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
        const draw = new CaseDraw(source, name);
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
    const draw = new CaseDraw(source, name);
    const moves = draw.random.below(MOVES_MAX + 1);
    const killed = draw.random.below(3) === 0 ? [draw.random.below(moves + 1)] : [];
    return { name, ...draw.journey(moves, killed) };
  });
}
