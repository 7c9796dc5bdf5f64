import { describe, expect, test } from "vitest";
import { decidePlacements, type OpenGroup, type WaitingJob } from "./placement.ts";

const job = (key: string, changes: Partial<WaitingJob> = {}): WaitingJob => ({
  key,
  units: 1,
  suspect: false,
  modelDigest: "m",
  numericsClass: "",
  ...changes,
});
const group = (name: string, changes: Partial<OpenGroup> = {}): OpenGroup => ({
  group: name,
  incarnation: `${name}-1`,
  modelDigest: "m",
  numericsClass: "c",
  residentsMax: 2,
  load: 0,
  exclusive: false,
  ...changes,
});
const decide = (jobs: WaitingJob[], groups: OpenGroup[]) =>
  decidePlacements(jobs, groups).map(({ key, group: to }) => `${key}>${to}`);

describe("placement", () => {
  test.each<[string, WaitingJob[], OpenGroup[], string[]]>([
    ["nothing without groups", [job("a")], [], []],
    ["spreads over the roomiest", [job("a"), job("b")], [group("x"), group("y")], ["a>x", "b>y"]],
    [
      "keeps the order of arrival and stops at the first that does not fit",
      [job("a", { units: 2 }), job("b", { units: 2 }), job("c")],
      [group("x", { residentsMax: 3 })],
      ["a>x"],
    ],
    [
      "gives a job with more images than a group holds the whole group",
      [job("a", { units: 5 }), job("b")],
      [group("x")],
      ["a>x"],
    ],
    ["never overfills", [job("a"), job("b"), job("c")], [group("x")], ["a>x", "b>x"]],
    [
      "prefers the numerics class of the checkpoints to room",
      [job("a", { numericsClass: "c" })],
      [group("x", { numericsClass: "d", residentsMax: 9 }), group("y")],
      ["a>y"],
    ],
    [
      "takes another class rather than none",
      [job("a", { numericsClass: "c" })],
      [group("x", { numericsClass: "d" })],
      ["a>x"],
    ],
    [
      "gives a suspect an empty group for itself",
      [job("s", { suspect: true }), job("a")],
      [group("x", { load: 1 }), group("y")],
      ["s>y", "a>x"],
    ],
    [
      "empties a group for a suspect, and the others go on elsewhere",
      [job("s", { suspect: true }), job("a")],
      [group("x", { load: 1, residentsMax: 9 }), group("y", { load: 2, residentsMax: 9 })],
      ["a>y"],
    ],
    [
      "gives a job only to groups that serve its model, and lets others overtake it",
      [job("a", { modelDigest: "old" }), job("b"), job("s", { modelDigest: "old", suspect: true })],
      [group("x")],
      ["b>x"],
    ],
    [
      "keeps the order among the jobs of one model",
      [job("a", { units: 2 }), job("b"), job("c", { modelDigest: "n" })],
      [group("x", { load: 1 }), group("y", { modelDigest: "n" })],
      ["c>y"],
    ],
    ["puts nothing beside a suspect", [job("a")], [group("x", { exclusive: true, load: 1 })], []],
  ])("%s", (_, jobs, groups, expected) => {
    expect(decide(jobs, groups)).toEqual(expected);
  });
});
