/**
 * The replica groups of a pool as the leader knows them: by registration, by heartbeat, or (after
 * a take-over) only by the records of jobs that were placed on them.
 *
 * Silence counts only while the leader's own path through NATS is proven by its echo, and after a
 * time of grace when the path came back: an outage of NATS must not look like the death of every
 * group.
 */
import {
  ECHO_FRESH_MS,
  GROUP_HOLD_MS,
  GROUP_SILENCE_MS,
  GROUPS_PER_POOL_MAX,
  OUTAGE_GRACE_MS,
  PROTOCOL_VERSION,
  RETIRED_INCARNATIONS_MAX,
} from "./limits.ts";

export interface Resident {
  readonly tenant: string;
  readonly job: string;
  readonly attempt: bigint;
}

/** What a heartbeat and a registration both say. */
export interface GroupFacts {
  readonly group: string;
  readonly incarnation: string;
  readonly residentsMax: number;
  readonly numericsClass: string;
  /** Of the model that it serves; a heartbeat does not say it. */
  readonly modelDigest?: string;
  readonly simulated: boolean;
  readonly protocolVersionMin: number;
  readonly protocolVersionMax: number;
}

export interface HeartbeatFacts extends GroupFacts {
  readonly leaderEpoch: bigint;
  readonly draining: boolean;
  /** Every stage can work. */
  readonly ready: boolean;
  readonly residents: readonly Resident[];
}

export interface GroupEntry {
  readonly group: string;
  incarnation: string;
  /** Undefined until this leader has heard it. */
  facts: GroupFacts | undefined;
  /** As this incarnation registered; undefined until this leader has heard that. */
  modelDigest: string | undefined;
  draining: boolean;
  ready: boolean;
  residents: readonly Resident[];
  lastHeardMs: number;
  heldUntilMs: number;
  /** Residents that no record knows, by job and attempt, and when they were first and last revoked. */
  readonly strays: Map<string, { firstSeenMs: number; revokedMs: number }>;
}

export interface GroupRef {
  readonly group: string;
  readonly incarnation: string;
}

export type Acquaintance =
  | { readonly kind: "known"; readonly entry: GroupEntry }
  /** It replaces `ended`, whose jobs are nowhere now. */
  | { readonly kind: "replaced"; readonly entry: GroupEntry; readonly ended: GroupRef }
  | { readonly kind: "new"; readonly entry: GroupEntry }
  /** Words of an incarnation that has ended. */
  | { readonly kind: "retired" }
  | { readonly kind: "too-many" };

export class GroupTable {
  readonly #groups = new Map<string, GroupEntry>();
  readonly #retired = new Map<string, string[]>();
  #lastEchoMs: number | undefined;
  #provenSinceMs: number | undefined;
  #latestModel: string | undefined;

  get size(): number {
    return this.#groups.size;
  }

  get(group: string): GroupEntry | undefined {
    return this.#groups.get(group);
  }

  /** The model of the group that registered last, whether or not it is still there. */
  get latestModel(): string | undefined {
    return this.#latestModel;
  }

  hasModel(digest: string): boolean {
    return [...this.#groups.values()].some((entry) => entry.modelDigest === digest);
  }

  values(): Iterable<GroupEntry> {
    return this.#groups.values();
  }

  /** A group that a record names; it has its grace to be heard. */
  expect(ref: GroupRef, nowMs: number): void {
    if (!this.#groups.has(ref.group)) this.#groups.set(ref.group, newEntry(ref, nowMs));
  }

  meet(facts: GroupFacts, nowMs: number): Acquaintance {
    if (this.#retired.get(facts.group)?.includes(facts.incarnation)) return { kind: "retired" };
    const present = this.#groups.get(facts.group);
    if (!present) {
      if (this.#groups.size >= GROUPS_PER_POOL_MAX) return { kind: "too-many" };
      const entry = newEntry(facts, nowMs);
      this.#groups.set(facts.group, entry);
      this.#hear(entry, facts, nowMs);
      return { kind: "new", entry };
    }
    if (present.incarnation === facts.incarnation) {
      this.#hear(present, facts, nowMs);
      return { kind: "known", entry: present };
    }
    const ended = { group: present.group, incarnation: present.incarnation };
    this.#retire(ended);
    const entry = newEntry(facts, nowMs);
    this.#groups.set(facts.group, entry);
    this.#hear(entry, facts, nowMs);
    return { kind: "replaced", entry, ended };
  }

  #hear(entry: GroupEntry, facts: GroupFacts, nowMs: number): void {
    entry.facts = facts;
    entry.lastHeardMs = nowMs;
    if (facts.modelDigest === undefined) return;
    entry.modelDigest = facts.modelDigest;
    this.#latestModel = facts.modelDigest;
  }

  /** Forgets a group that is silent. The same incarnation may come back, with nothing placed. */
  forget(ref: GroupRef): void {
    this.#groups.delete(ref.group);
  }

  /** An incarnation that was replaced is never listened to again. */
  #retire(ref: GroupRef): void {
    const retired = this.#retired.get(ref.group) ?? [];
    retired.push(ref.incarnation);
    if (retired.length > RETIRED_INCARNATIONS_MAX) retired.shift();
    this.#retired.set(ref.group, retired);
  }

  hold(group: string, nowMs: number): void {
    const entry = this.#groups.get(group);
    if (entry) entry.heldUntilMs = nowMs + GROUP_HOLD_MS;
  }

  heardEcho(nowMs: number): void {
    if (!this.#isFresh(nowMs)) this.#provenSinceMs = nowMs;
    this.#lastEchoMs = nowMs;
  }

  /** Since when the leader's own path is proven without a break; undefined while it is not. */
  provenSinceMs(nowMs: number): number | undefined {
    return this.#isFresh(nowMs) ? this.#provenSinceMs : undefined;
  }

  /** Groups whose silence is their own. */
  silent(nowMs: number): GroupRef[] {
    const provenSinceMs = this.provenSinceMs(nowMs);
    if (provenSinceMs === undefined) return [];
    return [...this.#groups.values()].filter((entry) => {
      const countsFromMs = Math.max(entry.lastHeardMs, provenSinceMs + OUTAGE_GRACE_MS);
      return nowMs - countsFromMs > GROUP_SILENCE_MS;
    });
  }

  #isFresh(nowMs: number): boolean {
    return this.#lastEchoMs !== undefined && nowMs - this.#lastEchoMs <= ECHO_FRESH_MS;
  }
}

/** Whether something can be placed on it, apart from room. */
export function isOpen(entry: GroupEntry, nowMs: number): boolean {
  return (
    entry.facts !== undefined &&
    entry.modelDigest !== undefined &&
    entry.ready &&
    !entry.draining &&
    entry.facts.residentsMax > 0 &&
    nowMs >= entry.heldUntilMs &&
    nowMs - entry.lastHeardMs <= GROUP_SILENCE_MS
  );
}

export function speaksOurProtocol(facts: GroupFacts): boolean {
  return (
    facts.protocolVersionMin <= PROTOCOL_VERSION && facts.protocolVersionMax >= PROTOCOL_VERSION
  );
}

function newEntry(ref: GroupRef, nowMs: number): GroupEntry {
  return {
    group: ref.group,
    incarnation: ref.incarnation,
    facts: undefined,
    modelDigest: undefined,
    draining: false,
    ready: false,
    residents: [],
    lastHeardMs: nowMs,
    heldUntilMs: 0,
    strays: new Map(),
  };
}
