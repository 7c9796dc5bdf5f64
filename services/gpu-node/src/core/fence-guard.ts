/**
 * Which commands a group obeys. A command names the placement it speaks of: job and attempt, the
 * group's incarnation, and the epoch of the leader that sent it. Attempts and epochs only grow, so
 * a command that was delayed, sent twice, or sent by a leader that has been replaced shows itself.
 */

export interface PlacementFence {
  readonly job: string;
  readonly attempt: bigint;
  readonly incarnation: string;
  readonly leaderEpoch: bigint;
}

export type Judgement = "new" | "repeated" | "stale";

/** Jobs whose last attempt is remembered; older ones are fenced by the leader's own record. */
const JOBS_REMEMBERED_MAX = 10_000;

export class FenceGuard {
  readonly #incarnation: string;
  readonly #attempts = new Map<string, bigint>();
  #leaderEpoch = 0n;
  #staleCommands = 0;

  constructor(incarnation: string) {
    this.#incarnation = incarnation;
  }

  get leaderEpoch(): bigint {
    return this.#leaderEpoch;
  }

  /** Commands refused so far, for metrics. */
  get staleCommands(): number {
    return this.#staleCommands;
  }

  sawLeader(epoch: bigint): void {
    if (epoch > this.#leaderEpoch) this.#leaderEpoch = epoch;
  }

  /** `repeated`: this very placement was accepted before. */
  judgeAssign(fence: PlacementFence): Judgement {
    const last = this.#attempts.get(fence.job) ?? -1n;
    if (!this.#isCurrent(fence) || fence.attempt < last) return this.#stale();
    return fence.attempt === last ? "repeated" : "new";
  }

  /** Remembers an assign that was accepted. */
  accepted(fence: PlacementFence): void {
    this.#attempts.delete(fence.job);
    this.#attempts.set(fence.job, fence.attempt);
    const [oldest] = this.#attempts.keys();
    if (this.#attempts.size > JOBS_REMEMBERED_MAX && oldest !== undefined) {
      this.#attempts.delete(oldest);
    }
  }

  /** A revoke is obeyed for the attempt that was last accepted, and for no other. */
  judgeRevoke(fence: PlacementFence): "current" | "stale" {
    const last = this.#attempts.get(fence.job);
    return this.#isCurrent(fence) && fence.attempt === last ? "current" : this.#stale();
  }

  #isCurrent(fence: PlacementFence): boolean {
    if (fence.incarnation !== this.#incarnation) return false;
    if (fence.leaderEpoch < this.#leaderEpoch) return false;
    this.sawLeader(fence.leaderEpoch);
    return true;
  }

  #stale(): "stale" {
    this.#staleCommands += 1;
    return "stale";
  }
}
