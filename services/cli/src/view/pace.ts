/**
 * How long a job will still take, from the steps seen so far. Pure: it is told the time.
 * Steps of one job cost the same, so the mean of those seen is the best guess for the rest.
 */
export class Pace {
  #first: { readonly step: number; readonly atMs: number } | undefined;
  #last: { readonly step: number; readonly atMs: number } | undefined;

  /** `step` steps are done at `nowMs`. A job that began again starts the count anew. */
  observe(step: number, nowMs: number): void {
    if (this.#last !== undefined && step === this.#last.step) return;
    const startsAnew = this.#last !== undefined && step < this.#last.step;
    if (this.#first === undefined || startsAnew) this.#first = { step, atMs: nowMs };
    this.#last = { step, atMs: nowMs };
  }

  /** Steps a second; undefined before two observations. */
  get perSecond(): number | undefined {
    if (this.#first === undefined || this.#last === undefined) return undefined;
    const tookMs = this.#last.atMs - this.#first.atMs;
    return tookMs <= 0 ? undefined : (1000 * (this.#last.step - this.#first.step)) / tookMs;
  }

  /** Milliseconds until all steps are done; undefined before two observations. */
  remainingMs(totalSteps: number): number | undefined {
    if (this.#first === undefined || this.#last === undefined) return undefined;
    const steps = this.#last.step - this.#first.step;
    if (steps <= 0) return undefined;
    const perStepMs = (this.#last.atMs - this.#first.atMs) / steps;
    return Math.max(0, totalSteps - this.#last.step) * perStepMs;
  }
}

/** `0.8 s`, `42 s`, `3 min 5 s`, `2 h 10 min`. */
export function durationText(ms: number): string {
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds - minutes * 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
