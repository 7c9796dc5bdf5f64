import { expect, test } from "vitest";
import { PURGES_PER_TICK_MAX, TICK_MS } from "../core/limits.ts";
import { MarkerSweeper, markerAgeMsMin, markersEveryMs } from "./marker-sweeper.ts";

const always = () => true;

test("markers go as fast as purges may leave them, and each once", async () => {
  const erased: string[] = [];
  const sweeper = new MarkerSweeper(async (key) => void erased.push(key));
  let left = 0;
  const minutes = 5;
  for (let nowMs = 0; nowMs < minutes * 60_000; nowMs += TICK_MS) {
    for (let i = 0; i < PURGES_PER_TICK_MAX; i++) sweeper.seen(`j${left++}`, left, nowMs);
    if (nowMs % markersEveryMs === 0) await sweeper.sweep(nowMs, always);
  }
  const youngest = (PURGES_PER_TICK_MAX * (markerAgeMsMin + 2 * markersEveryMs)) / TICK_MS;
  expect(left - erased.length).toBeLessThanOrEqual(youngest);
  expect(new Set(erased).size).toBe(erased.length);
});

test("a marker that could not be erased comes again; a young one stays", async () => {
  let works = false;
  const erased: string[] = [];
  const sweeper = new MarkerSweeper(async (key) => {
    if (!works) throw new Error("no answer");
    erased.push(key);
  });
  sweeper.seen("old", 1, 0);
  sweeper.seen("young", 2, 50_000);
  await expect(sweeper.sweep(markerAgeMsMin, always)).rejects.toThrow("no answer");
  works = true;
  expect(await sweeper.sweep(markerAgeMsMin, always)).toBe(1);
  expect(erased).toEqual(["old"]);
  expect(await sweeper.sweep(200_000, () => false)).toBe(0);
});
