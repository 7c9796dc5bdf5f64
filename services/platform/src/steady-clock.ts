/**
 * Times of day that go on evenly. The core measures intervals and compares with times of day on one
 * clock; a wall clock that is set back by an hour would hide every silence for that hour.
 */
import type { Clock } from "@fluxline/kernel/clock.ts";

/** The time of day when it was made, and from there on what has passed. */
export function steadyClock(clock: Clock): () => number {
  const originMs = clock.nowMs() - clock.monotonicMs();
  return () => Math.round(originMs + clock.monotonicMs());
}
