import { describe, expect, test } from "vitest";
import { describeBus } from "./describe-bus.ts";
import {
  groupSubject,
  isToken,
  jobKey,
  jobOfBlob,
  keyInPool,
  keyOfPool,
  leaderSubject,
  resultKey,
  subjects,
} from "./topology.ts";

test("docs/bus.md is what the declaration prints", async () => {
  await expect(describeBus()).toMatchFileSnapshot("../../../../docs/bus.md");
});

test("a group speaks as a group and to the leader, and hears nothing that is the leader's", () => {
  const patterns = (side: "publishers" | "subscribers") =>
    subjects.filter((each) => each[side].includes("gpu-node")).map(({ pattern }) => pattern);
  expect(patterns("publishers").toSorted()).toEqual([
    "fl.v1.<pool>.<group>.heartbeat",
    "fl.v1.<pool>.<group>.progress",
    "fl.v1.<pool>.leader.register",
    "fl.v1.<pool>.leader.report",
  ]);
  expect(patterns("subscribers").some((pattern) => pattern.includes(".leader."))).toBe(false);
});

test("every subject has one kind of answer", () => {
  for (const { kind, reply } of subjects) expect(reply === undefined).toBe(kind === "event");
});

describe("names", () => {
  test.each([
    ["a", true],
    ["pool-1", true],
    ["a".repeat(63), true],
    ["a".repeat(64), false],
    ["", false],
    ["-a", false],
    ["a-", false],
    ["A", false],
    ["a.b", false],
    ["a*", false],
    [">", false],
  ])("%j as a token: %s", (value, ok) => {
    expect(isToken(value)).toBe(ok);
  });

  test("a subject is never made of something that is not a token", () => {
    expect(() => groupSubject("p", "*", "assign")).toThrow(/group id "\*"/);
    expect(() => leaderSubject("a.b", "admit")).toThrow(/pool id "a\.b"/);
    expect(() => groupSubject("p", "leader", "assign")).toThrow(/other than "leader"/);
    expect(groupSubject("p", "g0", "assign")).toBe("fl.v1.p.g0.assign");
  });

  test("keys come back as what they were made of", () => {
    const job = { pool: "p", tenant: "default", id: "01abc" };
    expect(jobKey(job)).toBe("p.default.01abc");
    expect(keyOfPool("p", keyInPool("p", jobKey(job)))).toBe(jobKey(job));
    expect(jobOfBlob(resultKey(job, 3n, 1))).toEqual(job);
    expect(jobOfBlob("p/default/01abc/3")).toBeUndefined();
  });
});
