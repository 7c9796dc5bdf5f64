/** The pools there are: their records, and which replica groups were heard lately. */
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";
import type { Clock } from "@fluxline/kernel/clock.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue, KeyValueWatch } from "@fluxline/platform/bus/key-value.ts";
import { listenBus, type Served } from "@fluxline/platform/bus/request.ts";
import { everyPoolGroupSubject, isToken } from "@fluxline/platform/bus/topology.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { Heartbeat } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { type ModelProfile, PoolRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { parsePoolName } from "../core/job-name.ts";
import { GROUP_SILENCE_MS, GROUPS_PER_POOL_MAX } from "../core/limits.ts";

export interface KnownPool {
  readonly pool: string;
  readonly profile: ModelProfile;
  readonly simulated: boolean;
}

const namesShownMax = 20;
const notReadyRetryMs = 1_000;

export class PoolDirectory {
  readonly #clock: Clock;
  readonly #configured: readonly string[];
  readonly #pools = new Map<string, KnownPool>();
  readonly #heardMs = new Map<string, Map<string, number>>();
  readonly #watch: KeyValueWatch;
  readonly #heartbeats: Served;
  readonly #synced = Promise.withResolvers<void>();

  /** `onPool` is told of every pool that has a record and may be served. */
  constructor(options: {
    bus: Bus;
    kv: KeyValue;
    clock: Clock;
    log: Logger;
    configured: readonly string[];
    onPool: (pool: string) => void;
  }) {
    const { bus, kv, clock, log, onPool } = options;
    this.#clock = clock;
    this.#configured = options.configured;
    this.#watch = kv.watch("*", (event) => {
      if (event.kind === "put") {
        if (!mayServe(options.configured, event.key)) return;
        const known = decodePool(event.key, event.stored.value, log);
        if (!known) return;
        this.#pools.set(event.key, known);
        onPool(event.key);
      } else if (event.kind === "removed") this.#pools.delete(event.key);
      else if (event.kind === "reset") this.#pools.clear();
      else if (event.kind === "synced") this.#synced.resolve();
      else log.warn({ error: event.error }, "watch on pools broke");
    });
    this.#heartbeats = listenBus(bus, {
      subject: everyPoolGroupSubject("heartbeat"),
      message: Heartbeat,
      handle: (heartbeat) => this.#heard(heartbeat),
      onError: (error, subject) => log.warn({ subject, error }, "heartbeat not understood"),
    });
  }

  get synced(): Promise<void> {
    return this.#synced.promise;
  }

  async stop(): Promise<void> {
    await Promise.all([this.#watch.stop(), this.#heartbeats.stop()]);
  }

  list(): KnownPool[] {
    return [...this.#pools.values()].sort((a, b) => (a.pool < b.pool ? -1 : 1));
  }

  /** Groups that were heard within the time after which one counts as lost. */
  groups(pool: string): number {
    const heard = this.#heardMs.get(pool);
    if (!heard) return 0;
    const sinceMs = this.#clock.nowMs() - GROUP_SILENCE_MS;
    for (const [group, heardMs] of heard) if (heardMs < sinceMs) heard.delete(group);
    return heard.size;
  }

  /** The pool of a request: `pools/<id>`, the id, or empty for the only one. */
  resolve(field: string, name: string): KnownPool {
    if (name === "") return this.#only(field);
    const pool = parsePoolName(field, name);
    const known = this.#pools.get(pool);
    if (known) return known;
    if (this.#configured.includes(pool)) throw notReady(`pool "${pool}"`);
    throw new AppError("not_found", `there is no pool "${pool}": ${this.#choices()}`, {
      reason: "POOL_NOT_FOUND",
      violations: [{ field, description: `is "${name}"; ${this.#choices()}` }],
      details: { pool },
    });
  }

  #only(field: string): KnownPool {
    const [only, ...others] = this.list();
    if (!only) throw notReady("any pool");
    if (others.length === 0) return only;
    throw invalidArgument([{ field, description: `is empty; ${this.#choices()}` }]);
  }

  #choices(): string {
    const names = this.list().map(({ pool }) => pool);
    if (names.length === 0) return "no replica group has registered any pool yet";
    const more = names.length > namesShownMax ? ", ..." : "";
    return `use one of ${names.slice(0, namesShownMax).join(", ")}${more}`;
  }

  #heard({ pool, group, draining }: Heartbeat): void {
    const heard = this.#heardMs.get(pool) ?? new Map<string, number>();
    if (draining) heard.delete(group);
    else if (heard.has(group) || heard.size < GROUPS_PER_POOL_MAX) {
      heard.set(group, this.#clock.nowMs());
    }
    this.#heardMs.set(pool, heard);
  }
}

/** `configured`: the pools of the settings; empty allows every pool. */
export function mayServe(configured: readonly string[], pool: string): boolean {
  return isToken(pool) && (configured.length === 0 || configured.includes(pool));
}

function decodePool(pool: string, value: Uint8Array, log: Logger): KnownPool | undefined {
  try {
    const { profile, simulated } = PoolRecord.decode(value);
    if (profile) return { pool, profile, simulated };
    log.error({ pool }, "pool record has no profile");
  } catch (error) {
    log.error({ pool, error }, "pool record cannot be read");
  }
  return undefined;
}

function notReady(what: string): AppError {
  const text = `no replica group has registered ${what} yet: start a GPU node, and call again`;
  return new AppError("unavailable", text, {
    reason: "POOL_NOT_READY",
    retryAfterMs: notReadyRetryMs,
  });
}
