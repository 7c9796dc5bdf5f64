/**
 * The pools that this replica leads or would lead. It competes for the lease of every pool that it
 * may serve: those named in its configuration, those with a record, and those whose first group
 * registers.
 */
import { AppError } from "@fluxline/kernel/error.ts";
import type { Clock } from "@fluxline/kernel/clock.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue } from "@fluxline/platform/bus/key-value.ts";
import type { Objects } from "@fluxline/platform/bus/object-store.ts";
import { serveBus, type Served } from "@fluxline/platform/bus/request.ts";
import { everyPoolSubject } from "@fluxline/platform/bus/topology.ts";
import { toStatus } from "@fluxline/platform/grpc/status.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { Registration, RegistrationReply } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import type { PoolFigures } from "../core/pool-leader.ts";
import { Lease } from "./lease.ts";
import { LeaderSession } from "./leader-session.ts";
import { mayServe } from "./pool-directory.ts";

export interface Stores {
  readonly jobs: KeyValue;
  readonly pools: KeyValue;
  readonly leaders: KeyValue;
  readonly results: Objects;
  readonly checkpoints: Objects;
}

export interface LeadershipsOptions {
  readonly bus: Bus;
  readonly stores: Stores;
  /** Pools that may be served; empty means every pool that registers. */
  readonly pools: readonly string[];
  readonly replica: string;
  readonly queuedJobsMax: number;
  /** What the job records of all pools may take together; the pools share it evenly. */
  readonly recordBytesMax: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly count: (pool: string, what: string, label: string) => void;
}

/** Pools that one replica competes for. */
const poolsMax = 256;

interface Leadership {
  readonly lease: Lease;
  session: LeaderSession | undefined;
}

export class Leaderships {
  readonly #options: LeadershipsOptions;
  readonly #pools = new Map<string, Leadership>();
  readonly #registrations: Served;

  constructor(options: LeadershipsOptions) {
    this.#options = options;
    for (const pool of options.pools) this.compete(pool);
    this.#registrations = serveBus(options.bus, {
      subject: everyPoolSubject("register"),
      request: Registration,
      reply: RegistrationReply,
      handle: (registration) => this.#register(registration),
      onError: (error, subject) => options.log.warn({ subject, error }, "not registered"),
    });
  }

  figures(): ReadonlyMap<string, PoolFigures> {
    const all = new Map<string, PoolFigures>();
    for (const [pool, { session }] of this.#pools) {
      if (session?.leading && session.figures) all.set(pool, session.figures);
    }
    return all;
  }

  /** Wants to lead a pool from now on; a pool that may not be served is left alone. */
  compete(pool: string): void {
    if (this.#pools.has(pool) || !this.#allows(pool)) return;
    if (this.#pools.size >= poolsMax) {
      this.#options.log.error({ pool, poolsMax }, "too many pools: this one is not led here");
      return;
    }
    const { stores, replica, clock, log } = this.#options;
    const leadership: Leadership = {
      session: undefined,
      lease: new Lease({
        kv: stores.leaders,
        pool,
        replica,
        clock,
        log,
        holder: {
          acquired: (epoch) => {
            leadership.session = this.#session(pool, epoch, leadership);
          },
          lost: () => {
            void leadership.session?.end();
            leadership.session = undefined;
          },
        },
      }),
    };
    this.#pools.set(pool, leadership);
  }

  /** Gives every lease up. */
  async drain(): Promise<void> {
    await this.#registrations.stop();
    await Promise.all([...this.#pools.values()].map(({ lease }) => lease.release()));
  }

  #session(pool: string, epoch: bigint, leadership: Leadership): LeaderSession {
    const { bus, stores, queuedJobsMax, recordBytesMax, clock, log, count } = this.#options;
    return new LeaderSession({
      bus,
      pool,
      epoch,
      queuedJobsMax,
      recordBytesMax: () => recordBytesMax / this.#pools.size,
      clock,
      log,
      ...stores,
      mayWrite: () => leadership.lease.valid,
      onEnd: (why) => leadership.lease.abandon(why),
      count: (what, label) => count(pool, what, label),
    });
  }

  #allows(pool: string): boolean {
    return mayServe(this.#options.pools, pool);
  }

  async #register(registration: Registration): Promise<RegistrationReply | undefined> {
    const { pool } = registration;
    if (!this.#allows(pool)) return { outcome: { $case: "refused", value: refusal(pool) } };
    this.compete(pool);
    // Whoever leads answers; until somebody does, the group asks again.
    return this.#pools.get(pool)?.session?.register(registration);
  }
}

function refusal(pool: string) {
  const text = `pool "${pool}" is not among the pools of this scheduler: add it to FLUXLINE_POOLS`;
  return toStatus(new AppError("permission_denied", text, { reason: "POOL_NOT_ALLOWED" }));
}
