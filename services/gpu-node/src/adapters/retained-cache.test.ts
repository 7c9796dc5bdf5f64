import { expect, test } from "vitest";
import { float32Tensor, type NamedTensors } from "../core/tensor.ts";
import { RetainedCache } from "./retained-cache.ts";

const KIB = 1024;

/** A device that remembers which keys it holds. */
function device() {
  const keys = new Set<string>();
  return {
    keys,
    retain: (key: string) => void keys.add(key),
    release: (key: string) => void keys.delete(key),
  };
}

const tensors = (kib: number) => (): NamedTensors => ({
  text: float32Tensor(new Float32Array((kib * KIB) / 4), [(kib * KIB) / 4]),
});

async function use(cache: RetainedCache, key: string, kib: number): Promise<void> {
  await cache.hold(key, tensors(kib));
  cache.letGo(key);
}

test("what was used last stays, up to the bytes and the number of keys", async () => {
  const bytes = device();
  const byBytes = new RetainedCache(bytes, { idleBytesMax: 10 * KIB, idleKeysMax: 100 });
  for (const key of ["a", "b", "c", "a", "d"]) await use(byBytes, key, 4);
  expect([...bytes.keys].sort()).toEqual(["a", "d"]);
  const few = device();
  const byKeys = new RetainedCache(few, { idleBytesMax: 1024 * KIB, idleKeysMax: 3 });
  for (let i = 0; i < 5_000; i++) await use(byKeys, `prompt ${i}`, 1);
  expect([...few.keys]).toEqual(["prompt 4997", "prompt 4998", "prompt 4999"]);
});

test("what is held is not let go, whatever it takes", async () => {
  const held = device();
  const cache = new RetainedCache(held, { idleBytesMax: 0, idleKeysMax: 0 });
  await cache.hold("resident", tensors(64));
  await use(cache, "other", 1);
  expect([...held.keys]).toEqual(["resident"]);
});

test("is made once for two who hold it, and made again after it was let go", async () => {
  const counted = device();
  const cache = new RetainedCache(counted, { idleBytesMax: 0, idleKeysMax: 0 });
  let made = 0;
  const make = (): NamedTensors => {
    made += 1;
    return tensors(1)();
  };
  expect(await cache.hold("a", make)).toEqual(["text"]);
  await cache.hold("a", make);
  cache.letGo("a");
  expect([made, counted.keys.size]).toEqual([1, 1]);
  cache.letGo("a");
  await cache.hold("a", make);
  expect(made).toBe(2);
});
