import { expect, test } from "vitest";
import { FenceGuard, type PlacementFence } from "./fence-guard.ts";

const fence = (change: Partial<PlacementFence> = {}): PlacementFence => ({
  job: "default/a",
  attempt: 3n,
  incarnation: "now",
  leaderEpoch: 7n,
  ...change,
});

function guardThatAccepted(...accepted: PlacementFence[]): FenceGuard {
  const guard = new FenceGuard("now");
  for (const one of accepted) {
    expect(guard.judgeAssign(one)).toBe("new");
    guard.claim(one);
  }
  return guard;
}

test.each([
  ["the same placement again", {}, "repeated"],
  ["an older attempt", { attempt: 2n }, "stale"],
  ["a newer attempt", { attempt: 4n }, "new"],
  ["an older leader", { attempt: 4n, leaderEpoch: 6n }, "stale"],
  ["a newer leader", { attempt: 4n, leaderEpoch: 8n }, "new"],
  ["another incarnation of this group", { attempt: 4n, incarnation: "before" }, "stale"],
  ["another job", { job: "default/b", attempt: 1n }, "new"],
])("an assign: %s", (_, change, judgement) => {
  expect(guardThatAccepted(fence()).judgeAssign(fence(change))).toBe(judgement);
});

test.each([
  ["the attempt it runs", {}, "current"],
  ["an older attempt", { attempt: 2n }, "stale"],
  ["an attempt it never saw", { attempt: 4n }, "stale"],
  ["a job it never saw", { job: "default/b" }, "stale"],
  ["an older leader", { leaderEpoch: 6n }, "stale"],
])("a revoke of %s", (_, change, judgement) => {
  const guard = guardThatAccepted(fence());
  expect(guard.judgeRevoke(fence(change))).toBe(judgement);
  expect(guard.staleCommands).toBe(judgement === "stale" ? 1 : 0);
});

test("a placement that was let go is held no more, and older ones stay stale", () => {
  const guard = guardThatAccepted(fence());
  guard.letGo(fence());
  expect(guard.holds(fence())).toBe(false);
  expect(guard.judgeRevoke(fence())).toBe("stale");
  expect(guard.judgeAssign(fence({ attempt: 2n }))).toBe("stale");
  expect(guard.judgeAssign(fence())).toBe("new");
});

test("a newer attempt takes the job over from an older one that still begins", () => {
  const guard = guardThatAccepted(fence(), fence({ attempt: 4n }));
  expect(guard.holds(fence())).toBe(false);
  guard.letGo(fence());
  expect(guard.holds(fence({ attempt: 4n }))).toBe(true);
});

test("a leader that was seen in a reply makes older ones stale", () => {
  const guard = new FenceGuard("now");
  guard.sawLeader(9n);
  expect(guard.judgeAssign(fence({ leaderEpoch: 8n }))).toBe("stale");
});
