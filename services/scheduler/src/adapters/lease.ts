/**
 * The lease of one pool's leader: a key in a bucket whose TTL ends it. The revision that created
 * (or took over) the key is the epoch; later leaders have larger ones.
 *
 * A leader trusts its lease by its own clock only: from the moment before the last renewal that
 * succeeded, for less than the TTL. So it has stopped before the server lets another one in.
 * A value that expires tells watchers nothing, so who waits for a lease polls.
 */
import type { Clock } from "@fluxline/kernel/clock.ts";
import type { KeyValue, WriteOutcome } from "@fluxline/platform/bus/key-value.ts";
import { leaseTtlMs } from "@fluxline/platform/bus/topology.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { LeaderLease } from "@fluxline/proto/fluxline/internal/v1/record.ts";

const renewEveryMs = 1_000;
/** Room for clocks that run at different speeds and for work that is under way. */
const safetyMs = 1_000;
const validMs = leaseTtlMs - safetyMs;

export interface LeaseHolder {
  /** The lease is ours; `epoch` is larger than every one before. */
  acquired(epoch: bigint): void;
  /** It is no longer ours: stop writing at once. */
  lost(why: string): void;
}

export interface LeaseOptions {
  readonly kv: KeyValue;
  readonly pool: string;
  readonly replica: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly holder: LeaseHolder;
}

export class Lease {
  readonly #options: LeaseOptions;
  readonly #done: Promise<void>;
  #stopping = false;
  #wake: () => void = () => {};
  #held: { revision: number; validUntilMs: number } | undefined;
  #expiry: NodeJS.Timeout | undefined;

  constructor(options: LeaseOptions) {
    this.#options = options;
    this.#done = this.#run();
  }

  /** Whether a write may be sent now. */
  get valid(): boolean {
    return this.#held !== undefined && this.#options.clock.monotonicMs() < this.#held.validUntilMs;
  }

  /** Gives the lease up, so that another replica need not wait for its end. */
  async release(): Promise<void> {
    this.#stopping = true;
    this.#wake();
    await this.#done;
    const held = this.#held;
    if (!held) return;
    this.#lose("released");
    await this.#options.kv.remove(this.#options.pool, held.revision);
  }

  /** Lets go without a word to the store: somebody newer leads, or the state must be rebuilt. */
  abandon(why: string): void {
    this.#lose(why);
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      try {
        if (this.#held) await this.#renew(this.#held.revision);
        else await this.#acquire();
      } catch (error) {
        this.#options.log.warn({ pool: this.#options.pool, error }, "no lease");
      }
      if (!this.#stopping) await this.#pause();
    }
  }

  async #acquire(): Promise<void> {
    const { kv, pool, replica, clock, log, holder } = this.#options;
    const sentMs = clock.monotonicMs();
    const value = LeaderLease.encode({ replica }).finish();
    let outcome = await kv.create(pool, value);
    if (outcome.kind === "conflict") {
      const present = await kv.get(pool);
      if (!present) return;
      // Our own from before a break of the connection: take it over under a new epoch.
      if (LeaderLease.decode(present.value).replica !== replica) return;
      outcome = await kv.update(pool, value, present.revision);
    }
    if (outcome.kind !== "written") return this.#noteFailure(outcome);
    if (this.#stopping) return void (await kv.remove(pool, outcome.revision));
    this.#hold(outcome.revision, sentMs);
    log.info({ pool, epoch: outcome.revision }, "leads the pool");
    holder.acquired(BigInt(outcome.revision));
  }

  async #renew(revision: number): Promise<void> {
    const { kv, pool, replica, clock } = this.#options;
    const sentMs = clock.monotonicMs();
    const outcome = await kv.update(pool, LeaderLease.encode({ replica }).finish(), revision);
    if (!this.#held) return;
    switch (outcome.kind) {
      case "written":
        return this.#hold(outcome.revision, sentMs);
      case "conflict": {
        // A renewal whose answer was lost was written all the same: then the value is ours.
        const present = await kv.get(pool);
        const ours = present && LeaderLease.decode(present.value).replica === replica;
        if (ours && this.#held) return this.#hold(present.revision, sentMs);
        return this.#lose("another replica has it");
      }
      default:
        return this.#noteFailure(outcome);
    }
  }

  #noteFailure(outcome: WriteOutcome): void {
    if (outcome.kind !== "refused" && outcome.kind !== "unknown") return;
    this.#options.log.warn({ pool: this.#options.pool, error: outcome.error }, "lease not written");
  }

  #hold(revision: number, sentMs: number): void {
    this.#held = { revision, validUntilMs: sentMs + validMs };
    clearTimeout(this.#expiry);
    const leftMs = sentMs + validMs - this.#options.clock.monotonicMs();
    this.#expiry = setTimeout(() => this.#lose("not renewed in time"), Math.max(leftMs, 0));
  }

  #lose(why: string): void {
    if (!this.#held) return;
    clearTimeout(this.#expiry);
    this.#held = undefined;
    this.#options.log.warn({ pool: this.#options.pool, why }, "leads the pool no more");
    this.#options.holder.lost(why);
  }

  async #pause(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    const timer = setTimeout(resolve, renewEveryMs);
    await promise;
    clearTimeout(timer);
  }
}
