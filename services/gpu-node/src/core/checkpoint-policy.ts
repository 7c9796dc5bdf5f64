/**
 * When a running image is worth a checkpoint: each `everyMs` of its residence, one at a time, and
 * never above a rate of bytes over all residents, which lengthens the interval. Drains and
 * preemptions do not ask: they always save.
 */

export interface CheckpointLimits {
  /** 0: none but on drain and preemption. */
  readonly everyMs: number;
  readonly bytesPerSecondMax: number;
}

interface Tracked {
  lastMs: number;
  underWay: boolean;
}

export class CheckpointPolicy {
  readonly #limits: CheckpointLimits;
  readonly #images = new Map<string, Tracked>();
  /** Bytes that may be written now; grows with time up to `#ceiling`. */
  #allowance: number;
  /** One second's worth, or the largest image seen. */
  #ceiling: number;
  #refilledMs: number | undefined;

  constructor(limits: CheckpointLimits) {
    this.#limits = limits;
    this.#ceiling = limits.bytesPerSecondMax;
    this.#allowance = limits.bytesPerSecondMax;
  }

  /**
   * Whether the image, at a boundary now, is to be saved; the caller says `ended` when it is. Its
   * first interval begins at `startedMs`, when work on it began: a step may take longer than that.
   */
  begin(image: string, bytes: number, nowMs: number, startedMs = nowMs): boolean {
    const { everyMs } = this.#limits;
    if (everyMs === 0) return false;
    this.#refill(bytes, nowMs);
    let tracked = this.#images.get(image);
    if (tracked === undefined) {
      tracked = { lastMs: startedMs, underWay: false };
      this.#images.set(image, tracked);
    }
    if (tracked.underWay || nowMs - tracked.lastMs < everyMs) return false;
    if (this.#allowance < bytes) return false;
    this.#allowance -= bytes;
    tracked.lastMs = nowMs;
    tracked.underWay = true;
    return true;
  }

  /** The save has ended, one way or the other. */
  ended(image: string): void {
    const tracked = this.#images.get(image);
    if (tracked !== undefined) tracked.underWay = false;
  }

  /** The image is not resident any more. */
  forget(image: string): void {
    this.#images.delete(image);
  }

  #refill(bytes: number, nowMs: number): void {
    this.#ceiling = Math.max(this.#ceiling, bytes);
    const elapsedSeconds = (nowMs - (this.#refilledMs ?? nowMs)) / 1000;
    const grown = this.#allowance + elapsedSeconds * this.#limits.bytesPerSecondMax;
    this.#allowance = Math.min(this.#ceiling, grown);
    this.#refilledMs = nowMs;
  }
}
