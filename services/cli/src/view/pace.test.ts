import { expect, test } from "vitest";
import { durationText, Pace } from "./pace.ts";

test("nothing is promised before two steps were seen", () => {
  const pace = new Pace();
  expect(pace.remainingMs(20)).toBeUndefined();
  pace.observe(3, 1000);
  pace.observe(3, 2000);
  expect(pace.remainingMs(20)).toBeUndefined();
});

test("the rest takes as long a step as what was seen", () => {
  const pace = new Pace();
  pace.observe(2, 1000);
  pace.observe(6, 3000);
  expect(pace.remainingMs(20)).toBe(14 * 500);
});

test("a job that began again is not judged by its first life", () => {
  const pace = new Pace();
  pace.observe(0, 0);
  pace.observe(10, 1000);
  pace.observe(0, 60_000);
  expect(pace.remainingMs(20)).toBeUndefined();
  pace.observe(1, 60_100);
  expect(pace.remainingMs(20)).toBe(1900);
});

test.each([
  [840, "0.8 s"],
  [42_100, "42 s"],
  [185_000, "3 min 5 s"],
  [7_800_000, "2 h 10 min"],
])("%d ms reads %s", (ms, text) => expect(durationText(ms)).toBe(text));
