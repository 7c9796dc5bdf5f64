import { describe, expect, test } from "vitest";
import { type CachedCommit, chooseEviction, type EvictionChoice } from "./cache-eviction.ts";

const commit = (id: string, bytes: number, lastUseMs: number, inUse = false): CachedCommit => ({
  id,
  bytes,
  lastUseMs,
  inUse,
});
const fits = (...evict: string[]): EvictionChoice => ({ kind: "fits", evict });

describe("room for 10 of 100 bytes", () => {
  test.each<[string, CachedCommit[], EvictionChoice]>([
    ["is there in an empty cache", [], fits()],
    ["is there when all together just fit", [commit("a", 90, 1)], fits()],
    ["costs the one unused for longest", [commit("a", 50, 2), commit("b", 41, 1)], fits("b")],
    [
      "costs no more than is needed",
      [commit("a", 5, 1), commit("b", 50, 2), commit("c", 40, 3)],
      fits("a"),
    ],
    [
      "never costs what is in use, however old",
      [commit("a", 60, 1, true), commit("b", 40, 9)],
      fits("b"),
    ],
    ["an empty one is not evicted", [commit("a", 0, 1), commit("b", 95, 2)], fits("b")],
    [
      "cannot be had from what is in use, and then nothing is evicted",
      [commit("a", 95, 1, true), commit("b", 3, 2)],
      { kind: "too-large", usedBytes: 98, removableBytes: 3 },
    ],
  ])("%s", (_, commits, expected) => {
    expect(chooseEviction(commits, 10, 100)).toEqual(expected);
  });
});
