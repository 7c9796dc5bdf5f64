import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { FileLock, type LockOptions, withLock } from "./file-lock.ts";

const times = { staleMs: 400, heartbeatMs: 50 };
let folder = "";
let file = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-lock-"));
  file = join(folder, "deep/one.lock");
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function acquire(options: Partial<LockOptions> = {}): Promise<FileLock> {
  return (await FileLock.acquire(file, { ...times, ...options }))!;
}

test("one holds it at a time, and all get their turn", async () => {
  let holders = 0;
  let most = 0;
  const work = async (): Promise<void> => {
    holders += 1;
    most = Math.max(most, holders);
    await sleep(20);
    holders -= 1;
  };
  await Promise.all(Array.from({ length: 5 }, () => withLock(file, times, work)));
  expect(most).toBe(1);
  expect(existsSync(file)).toBe(false);
});

test("a holder that lives keeps it, however long it takes", async () => {
  const lock = await acquire();
  const waiting = AbortSignal.timeout(3 * times.staleMs);
  await expect(acquire({ signal: waiting })).rejects.toThrow();
  expect(() => lock.assertHeld()).not.toThrow();
  lock.releaseNow();
});

test("of a dead one that left it, several that wait get it one after another", async () => {
  const lock = await acquire();
  lock.releaseNow();
  writeFileSync(file, "of a process that is gone");
  let holders = 0;
  const begunMs = performance.now();
  const work = async (held: FileLock): Promise<void> => {
    holders += 1;
    expect(holders).toBe(1);
    await sleep(100);
    held.assertHeld();
    holders -= 1;
  };
  await Promise.all([1, 2, 3].map(() => withLock(file, times, work)));
  expect(performance.now() - begunMs).toBeLessThan(5_000);
});

test("who lost it learns so, and does not release what is another's", async () => {
  const lock = await acquire();
  writeFileSync(file, "another's");
  expect(() => lock.assertHeld()).toThrow(/took the lock over/);
  lock.releaseNow();
  expect(readFileSync(file, "utf8")).toBe("another's");
});

test("a waiter ends when what it wanted has been done", async () => {
  const lock = await acquire();
  let asked = 0;
  const isDone = async (): Promise<boolean> => (asked += 1) > 2;
  expect(await FileLock.acquire(file, { ...times, isDone })).toBeUndefined();
  lock.releaseNow();
});
