/** So many at the same time, the rest in the order in which they came. */
import { assert } from "@fluxline/kernel/assert.ts";

export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    assert(count > 0, "without a slot nothing would ever run");
    this.#free = count;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }

  /**
   * Does all of it, or throws the first failure, when nothing of it goes on any more: the others
   * have been told by their signal to end.
   */
  async each<T>(
    items: readonly T[],
    outer: AbortSignal | undefined,
    work: (item: T, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const failed = new AbortController();
    const signal = outer === undefined ? failed.signal : AbortSignal.any([failed.signal, outer]);
    const works = items.map((item) =>
      this.run(async () => {
        try {
          signal.throwIfAborted();
          await work(item, signal);
        } catch (thrown) {
          failed.abort(thrown);
        }
      }),
    );
    await Promise.all(works);
    signal.throwIfAborted();
  }
}
