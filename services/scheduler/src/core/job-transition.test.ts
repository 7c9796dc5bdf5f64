import { describe, expect, test } from "vitest";
import {
  buildRecord,
  buildUnit,
  checkpointedUnit,
  finishedUnit,
  testPlacement,
} from "./job-builder.ts";
import { type Failure, isActive, type JobRecord, type JobState, jobStates } from "./job.ts";
import { type JobEvent, transition } from "./job-transition.ts";
import { BLAMED_FAILURES_MAX, FRUITLESS_ATTEMPTS_MAX } from "./limits.ts";

const nowMs = 5_000;
const placement = testPlacement;
const failure: Failure = { code: "internal", reason: "NAN", message: "latents are not numbers" };
const failed = { kind: "failed", failure, blamed: false, suspect: false, retryable: true } as const;

const events: Record<string, JobEvent> = {
  placed: { kind: "placed", group: "g1", incarnation: "i1" },
  bounced: { kind: "bounced", placement },
  refused: { kind: "refused", failure, placement },
  lost: { kind: "lost", placement },
  started: {
    kind: "started",
    numericsClass: "c",
    simulated: false,
    restarted: false,
    advisories: [],
    placement,
  },
  checkpointed: { kind: "checkpointed", units: [checkpointedUnit(0, 3)], placement },
  unitFinished: { kind: "unit-finished", units: [finishedUnit(0)], placement },
  finished: { kind: "finished", units: [finishedUnit(0)], placement },
  finishedEmpty: { kind: "finished", units: [], placement },
  failedRetryable: { ...failed, placement },
  failedForGood: { ...failed, retryable: false, placement },
  released: { kind: "released", units: [checkpointedUnit(0, 3)], placement },
  cancel: { kind: "cancel-requested" },
  queueTimeout: { kind: "queue-timed-out" },
  lifeEnded: { kind: "life-ended" },
};

/** What becomes of a job in a state: the next state, or why nothing does. */
type Row = Record<"queued" | "assigned" | "running" | "cancelling" | "ended", string>;

const table: Record<keyof typeof events, Row> = {
  placed: row("assigned", "not-applicable", "not-applicable", "not-applicable", "not-applicable"),
  bounced: row("stale", "queued", "not-applicable", "cancelled", "already"),
  refused: row("stale", "failed", "not-applicable", "cancelled", "already"),
  lost: row("stale", "queued", "queued", "cancelled", "already"),
  started: row("stale", "running", "already", "already", "already"),
  checkpointed: row("stale", "running", "running", "already", "already"),
  unitFinished: row("stale", "running", "running", "already", "already"),
  finished: row("stale", "succeeded", "succeeded", "cancelled", "already"),
  finishedEmpty: row("stale", "queued", "queued", "cancelled", "already"),
  failedRetryable: row("stale", "queued", "queued", "cancelled", "already"),
  failedForGood: row("stale", "failed", "failed", "cancelled", "already"),
  released: row("stale", "queued", "queued", "cancelled", "already"),
  cancel: row("cancelled", "cancelling", "cancelling", "already", "already"),
  queueTimeout: row(
    "expired",
    "not-applicable",
    "not-applicable",
    "not-applicable",
    "not-applicable",
  ),
  lifeEnded: row("expired", "expired", "expired", "expired", "already"),
};

function row(
  queued: string,
  assigned: string,
  running: string,
  cancelling: string,
  ended: string,
): Row {
  return { queued, assigned, running, cancelling, ended };
}

/** A job in a state, in its first placement where it has one. */
function inState(state: JobState): JobRecord {
  if (state === "queued") return buildRecord({ state });
  if (isActive(state)) return buildRecord({ state, ...placement });
  return buildRecord({ state, attempt: 1n, endTimeMs: 4_000 });
}

describe("every state and every event", () => {
  for (const [name, expected] of Object.entries(table)) {
    for (const state of jobStates) {
      const column = state === "queued" || isActive(state) ? state : "ended";
      test(`${state} + ${name} -> ${expected[column]}`, () => {
        const before = inState(state);
        const event = events[name];
        if (!event) return expect.unreachable(name);
        const result = transition(before, event, nowMs);
        const outcome = result.kind === "changed" ? result.record.state : result.why;
        expect(outcome).toBe(expected[column]);
        expect(before).toEqual(inState(state));
      });
    }
  }

  test("the table has every event", () => {
    expect(Object.keys(table).sort()).toEqual(Object.keys(events).sort());
  });
});

function after(record: JobRecord, event: JobEvent): JobRecord {
  const result = transition(record, event, nowMs);
  if (result.kind !== "changed") return expect.unreachable(result.why);
  return result.record;
}

describe("fencing", () => {
  const running = inState("running");
  test.each([
    ["an older attempt", { ...placement, attempt: 0n }],
    ["a later attempt", { ...placement, attempt: 2n }],
    ["another group", { ...placement, group: "g9" }],
    ["another incarnation", { ...placement, incarnation: "i9" }],
  ])("ignores %s in every state", (_, other) => {
    for (const state of jobStates) {
      const record = { ...inState(state) };
      const event: JobEvent = { kind: "finished", units: [finishedUnit(0)], placement: other };
      const result = transition(record, event, nowMs);
      const ignored = result.kind === "ignored";
      // An ended job remembers its attempt only, which is enough: it changes no more.
      expect(ignored, state).toBe(true);
    }
  });

  test("a placement raises the attempt, so what it replaces is stale", () => {
    const again = after(after(running, { kind: "lost", placement }), {
      kind: "placed",
      group: "g0",
      incarnation: "i0",
    });
    expect(again.attempt).toBe(2n);
    const event: JobEvent = { kind: "finished", units: [finishedUnit(0)], placement };
    expect(transition(again, event, nowMs)).toEqual({ kind: "ignored", why: "stale" });
  });
});

describe("what a transition keeps and drops", () => {
  test("a released job keeps its checkpoint and its place in the queue", () => {
    const record = after({ ...inState("running"), arrival: 7n }, events["released"]!);
    expect(record).toMatchObject({ state: "queued", arrival: 7n, group: "", incarnation: "" });
    expect(record.units[0]).toMatchObject({ checkpointStep: 3 });
  });

  test("an older checkpoint does not replace a newer one", () => {
    const running = { ...inState("running"), units: [checkpointedUnit(0, 5)] };
    expect(after(running, events["checkpointed"]!).units[0]?.checkpointStep).toBe(5);
  });

  test("a result replaces the checkpoint of its image", () => {
    const running = { ...inState("running"), units: [checkpointedUnit(0, 5)] };
    const unit = after(running, events["unitFinished"]!).units[0];
    expect(unit).toMatchObject({ checkpoint: undefined, checkpointStep: 0 });
    expect(unit?.result?.key).toBe("p/default/job1/1/0");
  });

  test("a job that was cancelled shows where its images stopped, and keeps no checkpoint", () => {
    const units = [finishedUnit(0), checkpointedUnit(1, 5), buildUnit(2)];
    const cancelling = { ...inState("cancelling"), units };
    const stopped = [buildUnit(0, { checkpointStep: 9 }), buildUnit(1, { checkpointStep: 7 })];
    const record = after(cancelling, { kind: "released", units: stopped, placement });
    expect(record).toMatchObject({ state: "cancelled", units: [finishedUnit(0), {}, {}] });
    expect(record.units.map((unit) => unit.checkpointStep)).toEqual([0, 7, 0]);
    expect(record.units.map((unit) => unit.checkpoint)).toEqual([undefined, undefined, undefined]);
  });

  test.each(["lost", "released", "failedRetryable"])(
    "a job whose images are all stored has succeeded, and %s changes nothing about that",
    (name) => {
      const running = { ...inState("running"), units: [finishedUnit(0), finishedUnit(1)] };
      const record = after(running, events[name]!);
      expect(record).toMatchObject({ state: "succeeded", endTimeMs: nowMs, failure: undefined });
      expect(record.units.map((unit) => unit.result?.key)).toEqual(
        running.units.map((unit) => unit.result?.key),
      );
    },
  );

  test("a start in another numerics class begins at step 0 and says which class", () => {
    const assigned = { ...inState("assigned"), units: [checkpointedUnit(0, 5)] };
    const event: JobEvent = {
      kind: "started",
      numericsClass: "other",
      simulated: true,
      restarted: true,
      advisories: [{ reason: "RESTARTED", field: "", message: "began again" }],
      placement,
    };
    const record = after(assigned, event);
    expect(record).toMatchObject({ numericsClass: "other", simulated: true, startTimeMs: nowMs });
    expect(record.units[0]?.checkpoint).toBeUndefined();
    expect(record.advisories).toHaveLength(1);
  });

  test("the queue timeout ends with the first start", () => {
    const assigned = { ...inState("assigned"), queueDeadlineMs: 9_000 };
    expect(after(assigned, events["bounced"]!).queueDeadlineMs).toBe(9_000);
    expect(after(assigned, events["started"]!).queueDeadlineMs).toBeUndefined();
  });

  test("a cancel names the placement to revoke; of a queued job there is none", () => {
    const result = transition(inState("running"), { kind: "cancel-requested" }, nowMs);
    expect(result).toMatchObject({ kind: "changed", revoke: placement });
    expect(transition(inState("queued"), { kind: "cancel-requested" }, nowMs)).toMatchObject({
      kind: "changed",
      revoke: undefined,
    });
  });
});

describe("blame", () => {
  const suspectFailure: JobEvent = { ...failed, suspect: true, placement };
  const blamedFailure: JobEvent = { ...failed, blamed: true, placement };

  test("a mate of a dying runner is a suspect, not blamed", () => {
    const record = after(inState("running"), suspectFailure);
    expect(record).toMatchObject({ state: "queued", suspect: true, blamedFailures: 0 });
  });

  test("a suspect whose runner dies again ran alone, so it is blamed", () => {
    const record = after({ ...inState("running"), suspect: true }, suspectFailure);
    expect(record).toMatchObject({ state: "queued", suspect: true, blamedFailures: 1 });
  });

  test("two blames end it with the reason of the last", () => {
    let record = inState("running");
    for (let blames = 1; blames < BLAMED_FAILURES_MAX; blames++) {
      record = { ...after(record, blamedFailure), ...placement, state: "running" };
    }
    const end = after(record, blamedFailure);
    expect(end).toMatchObject({ state: "failed", blamedFailures: 2, failure });
  });

  test("attempts that bring nothing end it after a bound, progress starts the count anew", () => {
    let record = inState("running");
    const again = (): JobRecord => ({ ...record, ...placement, state: "running" });
    for (let i = 1; i < FRUITLESS_ATTEMPTS_MAX; i++) {
      record = after(again(), events["lost"]!);
      expect(record.state).toBe("queued");
    }
    const progressed = after(again(), events["checkpointed"]!);
    expect(after(progressed, events["lost"]!).state).toBe("queued");
    expect(after(again(), events["lost"]!)).toMatchObject({
      state: "failed",
      failure: { reason: "ATTEMPTS_EXHAUSTED" },
    });
  });
});
