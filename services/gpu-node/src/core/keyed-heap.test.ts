import { expect, test } from "vitest";
import { Random } from "@fluxline/kernel/random.ts";
import { KeyedHeap, NO_PLACE } from "./keyed-heap.ts";

interface Item {
  key: number;
  place: number;
}

const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);

test(`the first is always the least, whatever is added, moved or taken out (FLUXLINE_SEED=${seed})`, () => {
  const random = new Random(seed);
  const heap = new KeyedHeap<"place", Item>("place", (a, b) => a.key < b.key);
  const items: Item[] = [];
  for (let i = 0; i < 5_000; i++) {
    const item = items[random.below(items.length)];
    const draw = random.below(5);
    if (item === undefined || draw < 2) {
      const added = { key: random.below(100), place: NO_PLACE };
      items.push(added);
      heap.add(added);
    } else if (draw === 2) {
      items.splice(items.indexOf(item), 1);
      heap.delete(item);
      expect(heap.has(item)).toBe(false);
    } else {
      item.key = random.below(100);
      heap.moved(item);
    }
    expect(heap.size).toBe(items.length);
    const least = items.length === 0 ? undefined : Math.min(...items.map(({ key }) => key));
    expect(heap.first?.key).toBe(least);
  }
});
