import { describe, expect, test } from "vitest";
import { assert, AssertionError } from "./assert.ts";
import { AppError, fromErrorRecord, invalidArgument, toAppError, toErrorRecord } from "./error.ts";
import { Random } from "./random.ts";

describe("AppError", () => {
  test("lists every violated field in its message", () => {
    const error = invalidArgument([
      { field: "width", description: "is 7; use 16" },
      { field: "steps", description: "is 0; use 1 or more" },
    ]);
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toBe("width: is 7; use 16; steps: is 0; use 1 or more");
  });

  test("survives the trip through its record", () => {
    const error = new AppError("resource_exhausted", "full", {
      reason: "QUEUE_FULL",
      details: { limit: "3" },
      retryable: true,
    });
    const back = fromErrorRecord(JSON.parse(JSON.stringify(toErrorRecord(error))));
    expect(toErrorRecord(back)).toEqual(toErrorRecord(error));
  });

  test("keeps the cause of what it wraps", () => {
    const cause = new TypeError("boom");
    expect(toAppError(cause).cause).toBe(cause);
    expect(toAppError(cause).code).toBe("internal");
  });
});

test("assert throws its message", () => {
  expect(() => assert(false, "never")).toThrow(AssertionError);
});

describe("Random", () => {
  test("repeats from its seed and differs between seeds", () => {
    const draw = (seed: number) => {
      const random = new Random(seed);
      return Array.from({ length: 8 }, () => random.uint32());
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });

  test("a fork does not follow its parent", () => {
    const parent = new Random(1);
    const fork = parent.fork();
    expect(fork.uint32()).not.toBe(parent.uint32());
  });

  test("below covers its range evenly", () => {
    const random = new Random(3);
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 40_000; i++) counts[random.below(4)]! += 1;
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(500);
  });
});
