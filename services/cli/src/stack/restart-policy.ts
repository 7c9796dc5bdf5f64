/**
 * Whether a child that died is started again, and when. Pure: a list of deaths in, a decision out.
 * Five deaths within a minute mean that a restart does not help.
 */
export type RestartDecision =
  | { readonly kind: "restart"; readonly delayMs: number }
  | { readonly kind: "give-up"; readonly deaths: number };

export const deathsMax = 5;
export const deathWindowMs = 60_000;
export const firstDelayMs = 200;
export const delayMsMax = 5_000;

/** `deathsMs` are the times of all deaths so far, the one to decide on last. */
export function decideRestart(deathsMs: readonly number[]): RestartDecision {
  const last = deathsMs.at(-1) ?? 0;
  const recent = deathsMs.filter((time) => last - time < deathWindowMs).length;
  if (recent >= deathsMax) return { kind: "give-up", deaths: recent };
  return { kind: "restart", delayMs: Math.min(delayMsMax, firstDelayMs * 2 ** (recent - 1)) };
}
