/**
 * Priority classes, shared by the scheduler (who is placed) and the GPU nodes (who runs next).
 *
 * A class is a head start, not a wall: work of one tenant is ordered by its arrival plus the
 * patience of its class, all in milliseconds. So an interactive request passes what came up to a
 * few seconds before it, and batch work that has waited for its patience is passed by nothing that
 * comes later: aging without a clock that has to tick.
 */
export type PriorityClass = "interactive" | "standard" | "batch";

export const priorityClasses: readonly PriorityClass[] = ["interactive", "standard", "batch"];

/** By how much the arrival of a request counts as later than it was. */
export const PATIENCE_MS: Readonly<Record<PriorityClass, number>> = {
  interactive: 0,
  standard: 5_000,
  batch: 60_000,
};

export const PATIENCE_MS_MAX = Math.max(...Object.values(PATIENCE_MS));

/** The moment by which work of one tenant is ordered; earlier goes first. */
export function turnMs(arrivalMs: number, priorityClass: PriorityClass): number {
  return arrivalMs + PATIENCE_MS[priorityClass];
}
