import { expect, test } from "vitest";
import { CheckpointPolicy } from "./checkpoint-policy.ts";

const MIB = 1024 * 1024;

/** Times at which an image that asks every 100 ms for 10 s is saved. */
function savedAt(policy: CheckpointPolicy, bytes: number, image = "a"): number[] {
  const times: number[] = [];
  for (let nowMs = 0; nowMs <= 10_000; nowMs += 100) {
    if (!policy.begin(image, bytes, nowMs)) continue;
    times.push(nowMs);
    policy.ended(image);
  }
  return times;
}

test("an image is saved at each interval of its residence, not at its first step", () => {
  const policy = new CheckpointPolicy({ everyMs: 2_000, bytesPerSecondMax: 32 * MIB });
  expect(savedAt(policy, MIB)).toEqual([2_000, 4_000, 6_000, 8_000, 10_000]);
});

test("an image whose steps take longer than the interval is saved at its first boundary", () => {
  const policy = new CheckpointPolicy({ everyMs: 2_000, bytesPerSecondMax: 32 * MIB });
  expect(policy.begin("a", MIB, 30_000, 0)).toBe(true);
  policy.ended("a");
  expect(policy.begin("a", MIB, 31_000, 0)).toBe(false);
});

test("an interval of 0 saves nothing", () => {
  const policy = new CheckpointPolicy({ everyMs: 0, bytesPerSecondMax: 32 * MIB });
  expect(savedAt(policy, MIB)).toEqual([]);
});

test("the byte rate lengthens the interval and is kept over all images", () => {
  const policy = new CheckpointPolicy({ everyMs: 500, bytesPerSecondMax: MIB });
  let bytes = 0;
  for (let nowMs = 0; nowMs <= 20_000; nowMs += 50) {
    for (const image of ["a", "b", "c", "d"]) {
      if (!policy.begin(image, MIB, nowMs)) continue;
      bytes += MIB;
      policy.ended(image);
    }
  }
  expect(bytes / MIB).toBeGreaterThanOrEqual(18);
  expect(bytes / MIB).toBeLessThanOrEqual(21);
});

test("an image larger than a second's worth is still saved, after as long as it takes", () => {
  const policy = new CheckpointPolicy({ everyMs: 1_000, bytesPerSecondMax: MIB });
  expect(savedAt(policy, 4 * MIB)).toEqual([3_000, 7_000]);
});

test("a large image is saved beside a small one that asks all the time", () => {
  const policy = new CheckpointPolicy({ everyMs: 1_000, bytesPerSecondMax: MIB });
  let large = 0;
  for (let nowMs = 0; nowMs <= 60_000; nowMs += 100) {
    for (const [image, bytes] of [
      ["small", MIB / 16],
      ["large", 4 * MIB],
    ] as const) {
      if (!policy.begin(image, bytes, nowMs)) continue;
      policy.ended(image);
      if (image === "large") large += 1;
    }
  }
  expect(large).toBeGreaterThanOrEqual(10);
});

test("a save under way is not begun again", () => {
  const policy = new CheckpointPolicy({ everyMs: 100, bytesPerSecondMax: 32 * MIB });
  policy.begin("a", MIB, 0);
  expect(policy.begin("a", MIB, 200)).toBe(true);
  expect(policy.begin("a", MIB, 400)).toBe(false);
  policy.ended("a");
  expect(policy.begin("a", MIB, 500)).toBe(true);
});

test("an image that comes back begins its interval anew", () => {
  const policy = new CheckpointPolicy({ everyMs: 1_000, bytesPerSecondMax: 32 * MIB });
  policy.begin("a", MIB, 0);
  policy.forget("a");
  expect(policy.begin("a", MIB, 1_500)).toBe(false);
});
