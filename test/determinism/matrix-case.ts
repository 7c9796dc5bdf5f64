/**
 * A case of the determinism matrix: one request, and the way in which it is served. It may be served
 * in several legs; at the end of each it is taken away at a step boundary and carried to the next
 * group, which has other stages, threads and batch mates.
 */
import type { CatalogueEntry } from "./catalogue.ts";

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
