/**
 * A small virtual world around the real leader: a store that is full now and then, groups, a
 * network that loses and delays, leaders that die or thaw. Seeded, so that a failing walk can be
 * walked again. Checks after every write and every command what must hold whatever happens.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError } from "@fluxline/kernel/error.ts";
import type { Random } from "@fluxline/kernel/random.ts";
import type { AdmitDraft } from "./admission.ts";
import { buildRecord, buildUnit } from "./job-builder.ts";
import { type Fence, isActive, isEnded, type JobRecord } from "./job.ts";
import type { LoadedJob } from "./job-table.ts";
import type { AssignOutcome, Effect, Input } from "./leader-protocol.ts";
import { PoolLeader } from "./pool-leader.ts";
import { WorldGroup } from "./leader-world-group.ts";

const commandTimeoutMs = 5_000;
const takeOverMs = 6_000;

export class World {
  readonly random: Random;
  nowMs = 1_000_000;
  faults = true;
  outageUntilMs = 0;
  /** Until then the store refuses most of what it is to write. */
  fullUntilMs = 0;
  readonly groups: WorldGroup[];
  readonly admitted = new Set<string>();
  readonly cancelled = new Set<string>();
  readonly stored = new Map<string, { record: JobRecord; revision: number }>();
  #leader: PoolLeader | undefined;
  #reign = 0;
  #epoch = 0n;
  #revision = 0;
  #nextTickMs = 0;
  #nextToken = 1;
  readonly #assigned = new Set<string>();
  readonly #waiting = new Map<number, (effect: Effect) => void>();
  #timeline: { atMs: number; run: () => void }[] = [];

  constructor(random: Random, groups: number) {
    this.random = random;
    this.groups = Array.from({ length: groups }, (_, i) => new WorldGroup(this, `g${i}`));
    this.lead();
  }

  chance(probability: number): boolean {
    return this.faults && this.random.float() < probability;
  }

  get network(): boolean {
    return this.nowMs >= this.outageUntilMs;
  }

  later(delayMs: number, run: () => void): void {
    this.#timeline.push({ atMs: this.nowMs + delayMs, run });
  }

  /** A message: delayed, and lost now and then. */
  send(run: () => void): void {
    if (!this.network || this.chance(0.03)) return;
    this.later(1 + this.random.below(30), () => {
      if (this.network) run();
    });
  }

  /** Lets time pass, in order. */
  pass(ms: number): void {
    const untilMs = this.nowMs + ms;
    for (;;) {
      const next = this.#timeline.reduce<number>((min, { atMs }) => Math.min(min, atMs), Infinity);
      const dueMs = Math.min(next, this.#nextTickMs);
      if (dueMs > untilMs) break;
      this.nowMs = Math.max(this.nowMs, dueMs);
      if (this.#nextTickMs <= this.nowMs) this.#tick();
      const due = this.#timeline.filter(({ atMs }) => atMs <= this.nowMs);
      this.#timeline = this.#timeline.filter(({ atMs }) => atMs > this.nowMs);
      for (const { run } of due) run();
    }
    this.nowMs = untilMs;
  }

  #tick(): void {
    this.#nextTickMs = this.nowMs + 500;
    this.step({ kind: "tick" });
    for (const group of this.groups) group.tick();
  }

  // --- the leader ------------------------------------------------------------------------------

  lead(): void {
    this.#reign += 1;
    this.#epoch += 1n;
    const loaded: LoadedJob[] = [...this.stored.values()].map((job) => ({
      ...job,
      sizeBytes: 100,
    }));
    const options = { pool: "p", epoch: this.#epoch, queuedJobsMax: 40 };
    this.#leader = new PoolLeader(options, loaded, this.nowMs);
  }

  /** It dies; what it has sent is still on its way. */
  killLeader(): void {
    this.#leader = undefined;
    this.#reign += 1;
    this.#waiting.clear();
    this.later(takeOverMs, () => this.lead());
  }

  step(input: Input): void {
    const reign = this.#reign;
    for (const effect of this.#leader?.step(input, this.nowMs) ?? []) this.#carryOut(effect, reign);
  }

  ask(input: (token: number) => Input, onReply: (effect: Effect) => void): void {
    const token = this.#nextToken++;
    this.#waiting.set(token, onReply);
    this.step(input(token));
  }

  /** For what comes back to the leader that asked, if it still leads. */
  #inReign(reign: number, input: Input): void {
    if (reign === this.#reign) this.step(input);
  }

  #carryOut(effect: Effect, reign: number): void {
    switch (effect.kind) {
      case "write":
      case "purge":
        // Now and then so late that another leads meanwhile.
        return this.later(this.chance(0.01) ? 8_000 : 1 + this.random.below(8), () =>
          this.#write(effect, reign),
        );
      case "assign":
        return this.#assign(effect, reign);
      case "revoke":
        return this.send(() => {
          const held = this.#group(effect.fence).revoked(effect.fence);
          if (held) return;
          this.send(() => this.#inReign(reign, { kind: "revoke-stale", fence: effect.fence }));
        });
      case "echo":
        return this.send(() => this.#inReign(reign, { kind: "echo" }));
      case "step-down":
        if (reign === this.#reign) this.killLeader();
        return;
      case "reply-admit":
      case "reply-cancel":
      case "reply-report":
      case "reply-register": {
        this.#waiting.get(effect.token)?.(effect);
        this.#waiting.delete(effect.token);
        return;
      }
      case "no-reply":
        this.#waiting.delete(effect.token);
        return;
      case "store-pool":
      case "delete-blobs":
      case "count":
        return;
    }
  }

  #group(fence: Fence): WorldGroup {
    const group = this.groups.find(({ name }) => name === fence.group);
    assert(group, `no group ${fence.group}`);
    return group;
  }

  #assign(effect: Extract<Effect, { kind: "assign" }>, reign: number): void {
    const { fence, key } = effect;
    const name = `${key}/${fence.attempt}`;
    assert(!this.#assigned.has(name), `${name} is commanded twice`);
    this.#assigned.add(name);
    const stored = this.stored.get(key)?.record;
    assert(stored && stored.attempt >= fence.attempt, `${name} is commanded before it is written`);
    this.#checkRoom(effect.record);
    let outcome: AssignOutcome = { kind: "unknown" };
    let told = false;
    const tell = () => {
      if (told) return;
      told = true;
      this.#inReign(reign, { kind: "assign-outcome", fence, outcome });
    };
    this.send(() => {
      outcome = this.#group(fence).assigned(effect);
      this.send(tell);
    });
    this.later(commandTimeoutMs, () => {
      // What was taken but not told is of unknown outcome to the leader.
      if (!told) outcome = { kind: "unknown" };
      tell();
    });
  }

  #checkRoom(placed: JobRecord): void {
    const beside = [...this.stored.values()].filter(
      ({ record }) =>
        isActive(record.state) &&
        record.group === placed.group &&
        record.incarnation === placed.incarnation,
    );
    const units = beside.reduce((sum, { record }) => sum + record.units.length, 0);
    assert(units <= WorldGroup.residentsMax || beside.length === 1, `${placed.group} is overfull`);
    const alone = beside.length === 1 || !beside.some(({ record }) => record.suspect);
    assert(alone, `${placed.group} runs something beside a suspect`);
  }

  // --- the store -------------------------------------------------------------------------------

  #write(effect: Extract<Effect, { kind: "write" | "purge" }>, reign: number): void {
    const { key, revision } = effect;
    const present = this.stored.get(key);
    if (revision !== (present?.revision ?? 0)) {
      const stored = present && { ...present, sizeBytes: 100 };
      return this.#inReign(reign, { kind: "conflict", key, stored });
    }
    if (this.nowMs < this.fullUntilMs && this.chance(0.9)) {
      const error = new AppError("resource_exhausted", "full", { reason: "STORE_FULL" });
      return this.#inReign(reign, { kind: "write-refused", key, error });
    }
    this.#revision += 1;
    if (effect.kind === "purge") {
      assert(present && isEnded(present.record.state), `${key} is purged while it lives`);
      this.stored.delete(key);
      return this.#inReign(reign, { kind: "purged", key });
    }
    this.#checkWrite(key, present?.record, effect.record);
    const written = { record: effect.record, revision: this.#revision };
    this.stored.set(key, written);
    const ackMs = this.chance(0.05) ? 2_000 : 1;
    this.later(ackMs, () =>
      this.#inReign(reign, { kind: "written", key, revision: written.revision, sizeBytes: 100 }),
    );
    // The watch tells everybody, the writer too.
    const job = { ...written, sizeBytes: 100 };
    this.later(this.random.below(50), () => this.step({ kind: "observed", job }));
  }

  #checkWrite(key: string, before: JobRecord | undefined, after: JobRecord): void {
    if (!before) return;
    assert(!isEnded(before.state), `${key} changes after its end: ${after.state}`);
    assert(after.attempt >= before.attempt, `${key} loses an attempt`);
    assert(after.arrival === before.arrival, `${key} loses its place`);
    if (before.state === "cancelling") {
      assert(["cancelled", "expired"].includes(after.state), `${key}: a cancel is forgotten`);
    }
    if (after.state === "succeeded") {
      // Groups of this world report all images at once, so all come from the last attempt.
      const made = after.units.every(({ result }) => result?.key.includes(`/${after.attempt}/`));
      assert(made, `${key} succeeds without every image of attempt ${after.attempt}`);
    }
  }

  // --- clients ---------------------------------------------------------------------------------

  admit(id: string, units: number): void {
    const { state: _s, arrival: _a, leaderEpoch: _l, attempt: _t, ...rest } = buildRecord();
    const draft: AdmitDraft = {
      ...rest,
      id,
      units: Array.from({ length: units }, (_, index) => buildUnit(index)),
      createTimeMs: this.nowMs,
      expireTimeMs: this.nowMs + 86_400_000,
    };
    this.ask(
      (token) => ({ kind: "admit", token, draft, sizeBytes: 100, recordBytesMax: 1e9 }),
      (effect) => {
        assert(effect.kind === "reply-admit", effect.kind);
        if (effect.outcome.kind !== "found") return;
        const key = `default.${id}`;
        assert(this.stored.has(key), `${key} is promised but not written`);
        this.admitted.add(key);
      },
    );
  }

  cancel(key: string): void {
    this.ask(
      (token) => ({ kind: "cancel", token, key }),
      (effect) => {
        assert(effect.kind === "reply-cancel", effect.kind);
        if (effect.outcome.kind === "found" && effect.outcome.record.state === "cancelling") {
          this.cancelled.add(key);
        }
      },
    );
  }
}
