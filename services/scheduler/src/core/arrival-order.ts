/**
 * The jobs of one pool in order of arrival. Nearly all come at the end, so keeping an array in
 * order costs little; what is removed leaves nothing behind.
 */

interface Place {
  readonly arrival: bigint;
  readonly key: string;
}

export class ArrivalOrder {
  readonly #places: Place[] = [];

  get size(): number {
    return this.#places.length;
  }

  add(arrival: bigint, key: string): void {
    const place = { arrival, key };
    const at = this.#firstNotBefore(place);
    const present = this.#places[at];
    if (present && compare(present, place) === 0) return;
    this.#places.splice(at, 0, place);
  }

  remove(arrival: bigint, key: string): void {
    const at = this.#firstNotBefore({ arrival, key });
    const present = this.#places[at];
    if (present?.arrival === arrival && present.key === key) this.#places.splice(at, 1);
  }

  /** Keys of those that arrived before `before`, or of all. */
  *newestFirst(before: bigint | undefined): Generator<string> {
    const end =
      before === undefined
        ? this.#places.length
        : this.#firstNotBefore({ arrival: before, key: "" });
    for (let at = end - 1; at >= 0; at--) {
      const place = this.#places[at];
      if (place) yield place.key;
    }
  }

  /** Index of the first place that is not before this one. */
  #firstNotBefore(wanted: Place): number {
    const last = this.#places.at(-1);
    if (!last || compare(last, wanted) < 0) return this.#places.length;
    let [low, high] = [0, this.#places.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      const place = this.#places[middle];
      if (place && compare(place, wanted) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function compare(a: Place, b: Place): number {
  if (a.arrival !== b.arrival) return a.arrival < b.arrival ? -1 : 1;
  if (a.key === b.key) return 0;
  return a.key < b.key ? -1 : 1;
}
