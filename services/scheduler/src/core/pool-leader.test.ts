import { describe, expect, test } from "vitest";
import { AppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
import type { AdmitDraft } from "./admission.ts";
import type { HeartbeatFacts } from "./group-table.ts";
import { buildRecord, buildUnit, checkpointedUnit, finishedUnit } from "./job-builder.ts";
import { isEnded, type JobRecord } from "./job.ts";
import type { Effect, Input } from "./leader-protocol.ts";
import {
  DROPPED_MS,
  ECHO_FRESH_MS,
  GROUP_SILENCE_MS,
  MODEL_GONE_MS,
  OUTAGE_GRACE_MS,
  WAITING_PER_JOB_MAX,
} from "./limits.ts";
import { PoolLeader } from "./pool-leader.ts";
import { World } from "./leader-world.ts";

const key = "default.job1";

function draft(changes: Partial<JobRecord> = {}): AdmitDraft {
  const { state: _s, arrival: _a, leaderEpoch: _l, attempt: _t, ...rest } = buildRecord(changes);
  return rest;
}

function heartbeat(changes: Partial<HeartbeatFacts> = {}): Input {
  const facts: HeartbeatFacts = {
    group: "g0",
    incarnation: "i0",
    residentsMax: 2,
    numericsClass: "c",
    modelDigest: "d",
    simulated: false,
    protocolVersionMin: 1,
    protocolVersionMax: 1,
    leaderEpoch: 0n,
    draining: false,
    ready: true,
    residents: [],
    ...changes,
  };
  return { kind: "heartbeat", facts };
}

/** A leader whose writes succeed at once. */
class Desk {
  readonly leader: PoolLeader;
  nowMs = 100_000;
  revision = 10;

  constructor(loaded: JobRecord[] = [], queuedJobsMax = 2) {
    const jobs = loaded.map((record) => ({ record, revision: 1, sizeBytes: 100 }));
    this.leader = new PoolLeader({ pool: "p", epoch: 5n, queuedJobsMax }, jobs, this.nowMs);
  }

  /** Effects of an input and of the writes it brings about. */
  give(input: Input): Effect[] {
    const effects = [...this.leader.step(input, this.nowMs)];
    for (const effect of effects) {
      if (effect.kind === "write") {
        const revision = ++this.revision;
        effects.push(
          ...this.leader.step(
            { kind: "written", key: effect.key, revision, sizeBytes: 100 },
            this.nowMs,
          ),
        );
      }
      if (effect.kind === "purge") {
        effects.push(...this.leader.step({ kind: "purged", key: effect.key }, this.nowMs));
      }
    }
    return effects.filter((effect) => effect.kind !== "count");
  }

  /** Seconds with everything in order: echo and heartbeat. */
  live(seconds: number, beat?: Input): Effect[] {
    const effects: Effect[] = [];
    for (let i = 0; i < seconds; i++) {
      this.nowMs += 1_000;
      effects.push(...this.give({ kind: "echo" }), ...this.give({ kind: "tick" }));
      if (beat) effects.push(...this.give(beat));
    }
    return effects.filter((effect) => effect.kind !== "echo");
  }

  admit(changes: Partial<JobRecord> = {}, sizeBytes = 100): Effect[] {
    const input = { draft: draft(changes), sizeBytes, recordBytesMax: 10_000 };
    return this.give({ kind: "admit", token: 1, ...input });
  }

  state(): string | undefined {
    return this.leader.look(key)?.state;
  }
}

const full = new AppError("resource_exhausted", "full", { reason: "STORE_FULL" });
const sizes = { sizeBytes: 1, recordBytesMax: 10_000 };
const kinds = (effects: readonly Effect[]) => effects.map((effect) => effect.kind);
const fence = {
  pool: "p",
  tenant: "default",
  job: "job1",
  attempt: 1n,
  group: "g0",
  incarnation: "i0",
  leaderEpoch: 5n,
};

describe("admission", () => {
  test("the answer follows the write, and carries it", () => {
    const desk = new Desk();
    const input: Input = { kind: "admit", token: 7, draft: draft(), ...sizes };
    const effects = desk.leader.step(input, desk.nowMs);
    expect(effects).toMatchObject([{ kind: "write", key, revision: 0, record: { arrival: 1n } }]);
    const after = desk.leader.step({ kind: "written", key, revision: 4, sizeBytes: 1 }, desk.nowMs);
    expect(after.filter(({ kind }) => kind !== "count")).toMatchObject([
      { kind: "reply-admit", token: 7, outcome: { kind: "found", revision: 4, created: true } },
    ]);
  });

  test("a repeat while the first is written waits for it and gets the same job", () => {
    const desk = new Desk();
    const input = (token: number, f = "f"): Input => ({
      kind: "admit",
      token,
      draft: draft({ requestFingerprint: f }),
      ...sizes,
    });
    desk.leader.step(input(1), desk.nowMs);
    expect(desk.leader.step(input(2), desk.nowMs)).toEqual([]);
    expect(desk.leader.step(input(3, "other"), desk.nowMs)).toEqual([]);
    const effects = desk.leader.step(
      { kind: "written", key, revision: 4, sizeBytes: 1 },
      desk.nowMs,
    );
    expect(effects.filter(({ kind }) => kind !== "count")).toMatchObject([
      { token: 1, outcome: { kind: "found", created: true } },
      { token: 2, outcome: { kind: "found", created: false } },
      { token: 3, outcome: { kind: "refused", error: { reason: "REQUEST_ID_REUSED" } } },
    ]);
  });

  test("a full queue and a full store are refused with what to do", () => {
    const desk = new Desk();
    desk.admit({ id: "a" });
    desk.admit({ id: "b" });
    expect(desk.admit({ id: "c" })).toMatchObject([
      { outcome: { error: { reason: "QUEUE_FULL", code: "resource_exhausted" } } },
    ]);
    const full = new Desk();
    expect(full.admit({}, 10_001)).toMatchObject([
      { outcome: { error: { reason: "RECORDS_FULL", details: { limit: "10000" } } } },
    ]);
  });

  test("room is set aside for the growth of a record, and counted as it was written", () => {
    const record = buildRecord({ state: "succeeded", units: [finishedUnit(0)] });
    const [many, few] = [new Desk(), new Desk([record])];
    const units = Array.from({ length: 18 }, (_, index) => buildUnit(index));
    expect(many.admit({ units })).toMatchObject([
      { outcome: { error: { reason: "RECORDS_FULL" } } },
    ]);
    expect(kinds(few.admit({ id: "a" }))).toEqual(["write", "reply-admit"]);
    few.leader.step({ kind: "cancel", token: 2, key: "default.a" }, few.nowMs);
    const written = { kind: "written", key: "default.a", revision: 60 } as const;
    few.leader.step({ ...written, sizeBytes: 9_000 }, few.nowMs);
    expect(few.admit({ id: "b" })).toMatchObject([
      { outcome: { error: { reason: "RECORDS_FULL" } } },
    ]);
  });
});

describe("placement and commands", () => {
  test("is recorded before the command is sent, once", () => {
    const desk = new Desk();
    desk.give(heartbeat());
    const effects = desk.admit();
    expect(kinds(effects)).toEqual(["write", "reply-admit", "write", "assign"]);
    expect(effects[2]).toMatchObject({ record: { state: "assigned", attempt: 1n, group: "g0" } });
    expect(effects[3]).toMatchObject({ fence: { ...fence }, alone: false });
    expect(
      desk.live(3, heartbeat({ residents: [{ tenant: "default", job: "job1", attempt: 1n }] })),
    ).toEqual([]);
  });

  test.each([
    ["a draining group", { draining: true }],
    ["a group whose stages are not ready", { ready: false }],
    ["a group of another protocol", { protocolVersionMin: 2, protocolVersionMax: 3 }],
    ["a group without room", { residentsMax: 0 }],
  ])("nothing is placed on %s", (_, changes) => {
    const desk = new Desk();
    desk.give(heartbeat(changes));
    desk.admit();
    expect(desk.state()).toBe("queued");
  });

  test("an unknown outcome is fenced and revoked, and the group waits for its next turn", () => {
    const desk = new Desk();
    desk.give(heartbeat());
    desk.admit();
    const effects = desk.give({ kind: "assign-outcome", fence, outcome: { kind: "unknown" } });
    expect(kinds(effects)).toEqual(["revoke", "write"]);
    expect(desk.state()).toBe("queued");
    expect(kinds(desk.live(2, heartbeat()))).toEqual(["write", "assign"]);
    expect(desk.leader.look(key)).toMatchObject({ attempt: 2n, state: "assigned" });
  });

  test("an unknown outcome after the first report is no longer unknown", () => {
    const desk = new Desk();
    desk.give(heartbeat());
    desk.admit();
    const started = { kind: "started", numericsClass: "c", simulated: false } as const;
    const event = { ...started, restarted: false, advisories: [] };
    desk.give({ kind: "report", token: 1, report: { fence, event } });
    expect(desk.give({ kind: "assign-outcome", fence, outcome: { kind: "unknown" } })).toEqual([]);
    expect(desk.state()).toBe("running");
  });

  test("an unknown outcome while the first report is being written revokes nothing", () => {
    const desk = new Desk();
    desk.give(heartbeat());
    desk.admit();
    const started = { kind: "started", numericsClass: "c", simulated: false } as const;
    const event = { ...started, restarted: false, advisories: [] };
    const report = { fence, event };
    expect(kinds(desk.leader.step({ kind: "report", token: 1, report }, 0))).toEqual(["write"]);
    expect(desk.give({ kind: "assign-outcome", fence, outcome: { kind: "unknown" } })).toEqual([]);
    const effects = desk.give({ kind: "written", key, revision: 90, sizeBytes: 1 });
    expect(kinds(effects)).toEqual(["reply-report"]);
    expect(desk.state()).toBe("running");
  });

  test("a newer leader's epoch in a report or heartbeat ends the reign", () => {
    const newer = { ...fence, leaderEpoch: 6n };
    const event = { kind: "finished", units: [finishedUnit(0)] } as const;
    const report: Input = { kind: "report", token: 1, report: { fence: newer, event } };
    for (const input of [report, heartbeat({ leaderEpoch: 6n })]) {
      const desk = new Desk();
      expect(kinds(desk.give(input))).toEqual(["step-down"]);
      expect(kinds(desk.give({ kind: "tick" }))).toEqual(["step-down"]);
    }
  });

  test("a write that the store refuses leaves the job as it was, and is tried again later", () => {
    const desk = new Desk([buildRecord()]);
    const [write] = desk.leader.step(heartbeat(), desk.nowMs);
    expect(write).toMatchObject({ kind: "write", record: { state: "assigned" } });
    const refused = desk.leader.step({ kind: "write-refused", key, error: full }, desk.nowMs);
    expect(refused.filter(({ kind }) => kind !== "count")).toEqual([]);
    expect(desk.state()).toBe("queued");
    expect(kinds(desk.live(2, heartbeat()))).toEqual(["write", "assign"]);
  });

  test("a job that failed waits longer each time, and others overtake it", () => {
    const desk = new Desk([], 9);
    desk.give(heartbeat({ residentsMax: 1 }));
    desk.admit();
    const failure = { code: "resource_exhausted", reason: "STORE_FULL", message: "full" } as const;
    const fault = { blamed: false, suspect: false, retryable: true };
    const event = { kind: "failed", failure, ...fault } as const;
    let waitedMs = 0;
    for (let attempt = 1n; attempt <= 9n; attempt++) {
      const report = { fence: { ...fence, attempt }, event };
      desk.give({ kind: "report", token: 1, report });
      expect(desk.state()).toBe("queued");
      if (attempt === 1n) expect(kinds(desk.admit({ id: "other" }))).toContain("assign");
      if (attempt === 1n) desk.give({ kind: "cancel", token: 2, key: "default.other" });
      if (attempt === 1n) desk.give({ kind: "revoke-stale", fence: { ...fence, job: "other" } });
      while (desk.state() === "queued") {
        desk.live(1, heartbeat({ residentsMax: 1 }));
        waitedMs += 1_000;
      }
    }
    expect(waitedMs).toBeGreaterThan(100_000);
    const report = { fence: { ...fence, attempt: 10n }, event };
    desk.give({ kind: "report", token: 1, report });
    expect(desk.leader.look(key)).toMatchObject({
      state: "failed",
      failure: { reason: "STORE_FULL", message: expect.stringMatching(/10 times in a row.*full/) },
    });
  });

  test("a conflict takes what is stored and decides anew", () => {
    const desk = new Desk([buildRecord({ state: "running", ...fence })]);
    desk.leader.step({ kind: "cancel", token: 9, key }, desk.nowMs);
    const record = buildRecord({ state: "succeeded", attempt: 1n });
    const stored = { record, revision: 30, sizeBytes: 1 };
    const effects = desk.leader.step({ kind: "conflict", key, stored }, desk.nowMs);
    expect(effects.filter(({ kind }) => kind !== "count")).toMatchObject([
      { kind: "reply-cancel", token: 9, outcome: { record: { state: "succeeded" } } },
    ]);
  });
});

describe("a question that gets no answer is settled all the same", () => {
  const running = buildRecord({ state: "running", ...fence });
  const report = (token: number): Input => ({
    kind: "report",
    token,
    report: { fence, event: { kind: "finished", units: [finishedUnit(0)] } },
  });

  test("a report whose write the store refuses", () => {
    const desk = new Desk([running]);
    desk.leader.step(report(9), desk.nowMs);
    const effects = desk.leader.step({ kind: "write-refused", key, error: full }, desk.nowMs);
    expect(effects).toContainEqual({ kind: "no-reply", token: 9 });
  });

  test("what comes when too much waits for the job already", () => {
    const desk = new Desk([running]);
    const settled: number[] = [];
    const note = (effects: readonly Effect[]) => {
      for (const effect of effects) if ("token" in effect) settled.push(effect.token);
    };
    const tokens = Array.from({ length: WAITING_PER_JOB_MAX + 3 }, (_, i) => i + 1);
    for (const token of tokens) note(desk.leader.step(report(token), desk.nowMs));
    expect(settled).toEqual(tokens.slice(WAITING_PER_JOB_MAX + 1));
    note(desk.leader.step({ kind: "written", key, revision: 2, sizeBytes: 1 }, desk.nowMs));
    expect(settled.toSorted((a, b) => a - b)).toEqual(tokens);
  });
});

describe("loss", () => {
  const running = buildRecord({ state: "running", attempt: 1n, group: "g0", incarnation: "i0" });

  test("silence of a group counts while the echo is heard", () => {
    const desk = new Desk([running]);
    const lateMs = OUTAGE_GRACE_MS + GROUP_SILENCE_MS;
    desk.live(lateMs / 1000 - 1);
    expect(desk.state()).toBe("running");
    desk.live(3);
    expect(desk.state()).toBe("queued");
  });

  test("silence of everything counts for nothing, and is followed by grace", () => {
    const desk = new Desk([running]);
    desk.give(heartbeat({ residents: [{ tenant: "default", job: "job1", attempt: 1n }] }));
    desk.live(2);
    for (let i = 0; i < 60; i++) {
      desk.nowMs += ECHO_FRESH_MS;
      desk.give({ kind: "tick" });
    }
    expect(desk.state()).toBe("running");
    desk.live(OUTAGE_GRACE_MS / 1000);
    expect(desk.state()).toBe("running");
    desk.live(GROUP_SILENCE_MS / 1000 + 2);
    expect(desk.state()).toBe("queued");
  });

  test("a new incarnation gives every job of the old one back at once", () => {
    const desk = new Desk([running]);
    const effects = desk.give(heartbeat({ incarnation: "i1", ready: false }));
    expect(effects).toMatchObject([{ kind: "write", record: { state: "queued" } }]);
    expect(desk.give(heartbeat({ incarnation: "i0" }))).toEqual([]);
  });

  test.each([
    ["a silent group", undefined],
    ["a group that started anew", heartbeat({ incarnation: "i1", ready: false })],
  ])("of %s is written in the end, however often the store refuses it", (_, beat) => {
    const desk = new Desk([running]);
    let refusals = 0;
    for (let i = 0; i < 120 && desk.state() === "running"; i++) {
      desk.nowMs += 500;
      for (const input of [{ kind: "echo" }, { kind: "tick" }, beat] as (Input | undefined)[]) {
        const [write] = (input ? desk.leader.step(input, desk.nowMs) : []).filter(
          (effect) => effect.kind === "write",
        );
        if (!write) continue;
        const answer: Input =
          ++refusals <= 5
            ? { kind: "write-refused", key, error: full }
            : { kind: "written", key, revision: 9, sizeBytes: 1 };
        desk.leader.step(answer, desk.nowMs);
      }
    }
    expect({ refusals, state: desk.state() }).toEqual({ refusals: 6, state: "queued" });
  });

  test("a former leader's placement on an incarnation that is gone is seen to be lost", () => {
    const desk = new Desk([buildRecord()]);
    desk.give(heartbeat({ incarnation: "i1", ready: false }));
    const record = buildRecord({ ...running, leaderEpoch: 4n });
    desk.give({ kind: "observed", job: { record, revision: 30, sizeBytes: 1 } });
    desk.live(1);
    expect(desk.state()).toBe("queued");
  });

  test("a cancelling job of a lost group is cancelled", () => {
    const desk = new Desk([{ ...running, state: "cancelling" }]);
    desk.give(heartbeat({ incarnation: "i1" }));
    expect(desk.state()).toBe("cancelled");
  });

  test("a job that its group no longer lists is placed anew, after a while", () => {
    const desk = new Desk([running]);
    desk.live(DROPPED_MS / 1000 - 1, heartbeat());
    expect(desk.state()).toBe("running");
    desk.live(3, heartbeat());
    expect(desk.leader.look(key)).toMatchObject({ state: "assigned", attempt: 2n });
  });

  test("a resident that no record knows is revoked at its second sight", () => {
    const desk = new Desk();
    const stray = heartbeat({ residents: [{ tenant: "default", job: "ghost", attempt: 3n }] });
    expect(desk.give(stray)).toEqual([]);
    expect(desk.live(1, stray)).toMatchObject([
      { kind: "revoke", fence: { job: "ghost", attempt: 3n, leaderEpoch: 5n } },
    ]);
    expect(desk.live(1, stray)).toEqual([]);
  });

  test("a cancel that shows no effect is told again; one the group does not hold ends", () => {
    const desk = new Desk([running]);
    const beat = heartbeat({ residents: [{ tenant: "default", job: "job1", attempt: 1n }] });
    desk.give(beat);
    const effects = desk.give({ kind: "cancel", token: 1, key });
    expect(kinds(effects)).toEqual(["write", "revoke", "reply-cancel"]);
    expect(kinds(desk.live(4, beat))).toEqual(["revoke"]);
    desk.give({ kind: "revoke-stale", fence });
    expect(desk.state()).toBe("cancelled");
  });
});

describe("the model of a job", () => {
  const { facts: heard } = heartbeat() as Extract<Input, { kind: "heartbeat" }>;
  const { modelDigest: _m, ...silentOnModel } = heard;
  const beat: Input = { kind: "heartbeat", facts: silentOnModel };
  const register = (modelDigest: string): Input => {
    const facts = { ...silentOnModel, modelDigest };
    return { kind: "register", token: 1, facts, profile: {} };
  };

  test("is known from the registration, and only then is anything placed", () => {
    const desk = new Desk([buildRecord()]);
    expect(desk.live(2, beat)).toEqual([]);
    expect(kinds(desk.give(register("d")))).toEqual(["store-pool", "write", "assign"]);
  });

  test("is the one that draws it: when the pool has another for long, the job fails", () => {
    const desk = new Desk([buildRecord({ expireTimeMs: 9_000_000 })]);
    desk.give(register("other"));
    desk.live(MODEL_GONE_MS / 1000, beat);
    expect(desk.state()).toBe("queued");
    desk.live(2, beat);
    expect(desk.leader.look(key)).toMatchObject({
      state: "failed",
      failure: {
        reason: "MODEL_CHANGED",
        message: expect.stringMatching(/model d, .* serves other: send the request again/),
      },
    });
  });

  test("is waited for when its groups are only gone, or come back in time", () => {
    const desk = new Desk([buildRecord({ expireTimeMs: 9_000_000 })]);
    desk.give(register("d"));
    desk.give(heartbeat({ incarnation: "i1", ready: false }));
    desk.live(120);
    expect(desk.state()).toBe("queued");
  });
});

describe("time", () => {
  test("a queue timeout ends a waiting job, an expire time any, and then purges it", () => {
    const desk = new Desk([buildRecord({ queueDeadlineMs: 102_000, expireTimeMs: 110_000 })]);
    desk.live(3);
    expect(desk.leader.look(key)).toMatchObject({
      state: "expired",
      failure: { reason: "QUEUE_TIMEOUT" },
    });
    expect(kinds(desk.live(8))).toEqual(["purge", "delete-blobs"]);
    expect(desk.leader.look(key)).toBeUndefined();
  });

  test("a running job past its expire time is revoked", () => {
    const desk = new Desk([buildRecord({ state: "running", ...fence, expireTimeMs: 100_500 })]);
    expect(kinds(desk.live(2))).toEqual(["write", "revoke", "purge", "delete-blobs"]);
  });

  test("a job whose end a full store does not take is purged, which makes room", () => {
    const units = [checkpointedUnit(0, 2)];
    const desk = new Desk([
      buildRecord({ state: "running", ...fence, units, expireTimeMs: 100_500 }),
    ]);
    desk.nowMs += 1_000;
    const [, write] = desk.leader.step({ kind: "tick" }, desk.nowMs);
    expect(write).toMatchObject({ kind: "write", record: { state: "expired" } });
    const effects = desk.give({ kind: "write-refused", key, error: full });
    expect(effects).toMatchObject([
      { kind: "purge", key, revision: 1 },
      { kind: "delete-blobs", blobs: [{ key: "p/default/job1/1/0-2" }] },
      { kind: "revoke", fence },
    ]);
    expect(desk.state()).toBeUndefined();
  });

  test("a checkpoint that is replaced is deleted", () => {
    const units = [checkpointedUnit(0, 2)];
    const desk = new Desk([buildRecord({ state: "running", ...fence, units })]);
    const event = { kind: "checkpointed", units: [checkpointedUnit(0, 4)] } as const;
    const effects = desk.give({ kind: "report", token: 1, report: { fence, event } });
    expect(effects).toMatchObject([
      { kind: "write" },
      { kind: "delete-blobs", blobs: [{ key: "p/default/job1/1/0-2" }] },
      { kind: "reply-report", outcome: "recorded" },
    ]);
  });
});

describe("random walks", () => {
  // A seed that once failed is put at the front of this list.
  const seeds = Array.from({ length: 60 }, (_, i) => i + 1);
  test.each(seeds)("seed %i: nothing is lost, nothing ends twice", (seed) => {
    const random = new Random(seed);
    const world = new World(random, 1 + random.below(4));
    let id = 0;
    for (let i = 0; i < 300; i++) {
      world.pass(random.below(700));
      const dice = random.float();
      if (dice < 0.25) world.admit(`j${id++}`, 1 + random.below(4));
      else if (dice < 0.3 && id > 0) world.cancel(`default.j${random.below(id)}`);
      else if (dice < 0.31) world.killLeader();
      else if (dice < 0.33) world.outageUntilMs = world.nowMs + random.below(15_000);
      else if (dice < 0.35) world.fullUntilMs = world.nowMs + random.below(8_000);
      else if (dice < 0.38) {
        const group = world.groups[random.below(world.groups.length)];
        group?.crash(random.below(20_000), random.float() < 0.5);
      }
    }
    world.faults = false;
    world.pass(600_000);
    expect(world.admitted.size, `seed ${seed}`).toBeGreaterThan(5);
    const ends: Record<string, number> = {};
    for (const each of world.admitted) {
      const record = world.stored.get(each)?.record;
      expect(record && isEnded(record.state), `seed ${seed}: ${each} ${record?.state}`).toBe(true);
      if (world.cancelled.has(each)) expect(record?.state, `seed ${seed}`).toBe("cancelled");
      ends[record?.state ?? ""] = (ends[record?.state ?? ""] ?? 0) + 1;
    }
    expect(ends["succeeded"], `seed ${seed}: ${JSON.stringify(ends)}`).toBeGreaterThan(3);
  });
});
