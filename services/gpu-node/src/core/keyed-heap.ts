/**
 * A binary heap that knows where each of its items stands, so that one in the middle can be taken
 * out or moved in logarithmic time. The batcher's orders change at both ends: a row is taken as
 * somebody's mate, a tenant is charged, a deadline passes. An item keeps its place itself, in a slot
 * of its own for each heap that it may stand in.
 */
import { assert } from "@fluxline/kernel/assert.ts";

/** The slot's value of an item that stands in no heap. */
export const NO_PLACE = -1;

export class KeyedHeap<S extends string, T extends Record<S, number>> {
  readonly #slot: S;
  readonly #before: (a: T, b: T) => boolean;
  readonly #items: T[] = [];

  /** `before` is a strict order; what it looks at may change only together with `moved`. */
  constructor(slot: S, before: (a: T, b: T) => boolean) {
    this.#slot = slot;
    this.#before = before;
  }

  get size(): number {
    return this.#items.length;
  }

  get first(): T | undefined {
    return this.#items[0];
  }

  has(item: T): boolean {
    return this.#items[item[this.#slot]] === item;
  }

  add(item: T): void {
    assert(!this.has(item), "an item stands in a heap once");
    this.#put(item, this.#items.length);
    this.#rise(item, this.#items.length - 1);
  }

  delete(item: T): void {
    assert(this.has(item), "an item that is not in the heap is taken out");
    const place: number = item[this.#slot];
    const last = this.#items.pop()!;
    (item as Record<S, number>)[this.#slot] = NO_PLACE;
    if (last === item) return;
    this.#put(last, place);
    this.moved(last);
  }

  /** Its key has changed. */
  moved(item: T): void {
    assert(this.has(item), "an item that is not in the heap has moved");
    this.#sink(item, this.#rise(item, item[this.#slot]));
  }

  #put(item: T, place: number): void {
    this.#items[place] = item;
    (item as Record<S, number>)[this.#slot] = place;
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
