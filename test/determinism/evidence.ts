/**
 * What a case showed: every difference between what was served and the reference, and proof that
 * the case did what it says (batches of that size, moves, deaths), because one that compared
 * nothing would find nothing.
 */
import type { Reference } from "./reference.ts";

/** Enough to see a pattern. */
const DIFFERENCES_MAX = 5;

export class Evidence {
  readonly #reference: Reference;
  readonly differences: string[] = [];
  latentsCompared = 0;
  picturesCompared = 0;
  moves = 0;
  kills = 0;
  restarts = 0;
  /** Rows of the batches in which the subject was, and how often. */
  readonly batches = new Map<number, number>();

  constructor(reference: Reference) {
    this.#reference = reference;
  }

  latents(at: Place, step: number, latents: Float32Array): void {
    const expected = this.#reference.known(at.request)[at.image]?.latents[step];
    this.latentsCompared += 1;
    this.#compare(`boundary ${step}`, at, latents, expected);
  }

  picture(at: Place, rgb: Uint8Array, decoded: Float32Array): void {
    const expected = this.#reference.known(at.request)[at.image];
    this.picturesCompared += 1;
    this.#compare("the decoded picture", at, decoded, expected?.decoded);
    this.#compare("the pixels", at, rgb, expected?.rgb);
  }

  fault(what: string): void {
    if (this.differences.length < DIFFERENCES_MAX) this.differences.push(what);
  }

  countBatch(rows: number): void {
    this.batches.set(rows, (this.batches.get(rows) ?? 0) + 1);
  }

  #compare(
    what: string,
    { request, image, where }: Place,
    actual: Float32Array | Uint8Array,
    expected: Float32Array | Uint8Array | undefined,
  ): void {
    const name = `request ${request}, image ${image}, ${where}: ${what}`;
    if (expected === undefined) return this.fault(`${name} should not be there`);
    if (expected.length !== actual.length) {
      return this.fault(`${name} has ${actual.length} values, not ${expected.length}`);
    }
    if (bytes(actual).equals(bytes(expected))) return;
    const wrong = [...expected.keys()].filter((i) => !Object.is(actual[i], expected[i]));
    const largest = Math.max(...wrong.map((i) => Math.abs(actual[i]! - expected[i]!)));
    const share = `${wrong.length} of ${expected.length} values`;
    this.fault(
      `${name}: ${share} differ, first ${wrong[0]}, by ${largest.toExponential(1)} at most`,
    );
  }
}

/** Which image, and how it was being served. */
export interface Place {
  readonly request: number;
  readonly image: number;
  readonly where: string;
}

function bytes({ buffer, byteOffset, byteLength }: Float32Array | Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
