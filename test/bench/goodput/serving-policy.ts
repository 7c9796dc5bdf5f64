/**
 * What the comparison compares: something that decides like the driver of a replica group. The
 * real driver is one; request batching is another, in the same terms, so that both run unchanged
 * on the simulated device and in the real engine.
 */
import type { Decider } from "@fluxline/gpu-node/adapters/engine.ts";
import type { DriverInput } from "@fluxline/gpu-node/core/driver.ts";

export type ServingPolicy = Decider;

/** An input that tells nothing: for a policy that only waits for time to pass. */
export const NUDGE_ID = "nobody";
export const NUDGE: DriverInput = { kind: "fenced", id: NUDGE_ID };

/** A policy that waits for fuller batches says until when. */
export interface Waiting {
  /** When to nudge it, if nothing happens before; undefined while it waits for nothing. */
  readonly wakeMs: number | undefined;
}
