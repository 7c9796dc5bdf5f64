/** The clock of the real world, for what runs outside a simulation. */
import type { Clock } from "@fluxline/kernel/clock.ts";

export const realClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};
