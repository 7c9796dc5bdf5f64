/**
 * A binary heap that knows where each of its items stands, so that one in the middle can be taken
 * out or moved in logarithmic time. The batcher's orders change at both ends: a row is taken as
 * somebody's mate, a tenant is charged, a deadline passes.
 */
import { assert } from "@fluxline/kernel/assert.ts";

export class KeyedHeap<T> {
  readonly #before: (a: T, b: T) => boolean;
  readonly #items: T[] = [];
  readonly #places = new Map<T, number>();

  /** `before` is a strict order; what it looks at may change only together with `moved`. */
  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before;
  }

  get size(): number {
    return this.#items.length;
  }

  get first(): T | undefined {
    return this.#items[0];
  }

  has(item: T): boolean {
    return this.#places.has(item);
  }

  add(item: T): void {
    assert(!this.#places.has(item), "an item stands in a heap once");
    this.#put(item, this.#items.length);
    this.#rise(item, this.#items.length - 1);
  }

  delete(item: T): void {
    const place = this.#place(item);
    const last = this.#items.pop()!;
    this.#places.delete(item);
    if (last === item) return;
    this.#put(last, place);
    this.moved(last);
  }

  /** Its key has changed. */
  moved(item: T): void {
    this.#sink(item, this.#rise(item, this.#place(item)));
  }

  #place(item: T): number {
    const place = this.#places.get(item);
    assert(place !== undefined, "an item that is not in the heap");
    return place;
  }

  #put(item: T, place: number): void {
    this.#items[place] = item;
    this.#places.set(item, place);
  }

  #rise(item: T, from: number): number {
    let place = from;
    while (place > 0) {
      const above = (place - 1) >> 1;
      const other = this.#items[above]!;
      if (!this.#before(item, other)) break;
      this.#put(other, place);
      place = above;
    }
    if (place !== from) this.#put(item, place);
    return place;
  }

  #sink(item: T, from: number): void {
    let place = from;
    for (;;) {
      let below = 2 * place + 1;
      if (below >= this.#items.length) break;
      const right = this.#items[below + 1];
      if (right !== undefined && this.#before(right, this.#items[below]!)) below += 1;
      const other = this.#items[below]!;
      if (!this.#before(other, item)) break;
      this.#put(other, place);
      place = below;
    }
    if (place !== from) this.#put(item, place);
  }
}
