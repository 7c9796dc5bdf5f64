import { expect, test } from "vitest";
import { steadyClock } from "./steady-clock.ts";

test("a clock that is set while it is read changes nothing", () => {
  let [wallMs, monotonicMs] = [1_000_000, 50];
  const now = steadyClock({ nowMs: () => wallMs, monotonicMs: () => monotonicMs });
  expect(now()).toBe(1_000_000);
  wallMs -= 3_600_000;
  monotonicMs += 20_000;
  expect(now()).toBe(1_020_000);
  wallMs += 7_200_000;
  monotonicMs += 1;
  expect(now()).toBe(1_020_001);
});
