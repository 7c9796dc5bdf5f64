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
  readonly #claims = new Map<string, { readonly attempt: bigint; held: boolean }>();
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

  /** `repeated`: this very placement is held already. */
  judgeAssign(fence: PlacementFence): Judgement {
    const claim = this.#claims.get(fence.job);
    if (!this.#isCurrent(fence)) return this.#stale();
    if (claim === undefined || fence.attempt > claim.attempt) return "new";
    if (fence.attempt < claim.attempt) return this.#stale();
    return claim.held ? "repeated" : "new";
  }

  /** Holds a placement from now on, before anything is awaited for it. */
  claim(fence: PlacementFence): void {
    this.#claims.delete(fence.job);
    this.#claims.set(fence.job, { attempt: fence.attempt, held: true });
    const [oldest] = this.#claims.keys();
    if (this.#claims.size > JOBS_REMEMBERED_MAX && oldest !== undefined) {
      this.#claims.delete(oldest);
    }
  }

  /** False once it was let go, or a newer attempt of the job was claimed. */
  holds(fence: PlacementFence): boolean {
    const claim = this.#claims.get(fence.job);
    return claim !== undefined && claim.attempt === fence.attempt && claim.held;
  }

  /** The placement came to nothing; its attempt stays known, so that older ones stay stale. */
  letGo(fence: PlacementFence): void {
    const claim = this.#claims.get(fence.job);
    if (claim !== undefined && claim.attempt === fence.attempt) claim.held = false;
  }

  /** A revoke is obeyed for the placement that is held, and for no other. */
  judgeRevoke(fence: PlacementFence): "current" | "stale" {
    return this.#isCurrent(fence) && this.holds(fence) ? "current" : this.#stale();
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
