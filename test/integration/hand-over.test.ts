/**
 * Jobs that are moved on purpose: preempted or drained at the next step boundary, with a checkpoint,
 * and no step is run twice. A group of another numerics class begins anew, and says so.
 */
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { callBus, listenBus } from "@fluxline/platform/bus/request.ts";
import { groupSubject, leaderSubject } from "@fluxline/platform/bus/topology.ts";
import {
  CommandReply,
  CommandReply_Outcome as Outcome,
  JobProgress,
  Report,
  Revoke,
  Revoke_Reason as Reason,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { LiveStack } from "../support/live-stack.ts";
import { until } from "../support/until.ts";

const request = (seed: bigint, more: object = {}) => ({
  prompt: "a photo of a red cat",
  numInferenceSteps: 300,
  seed,
  width: 64,
  height: 64,
  ...more,
});
const three = [
  request(1n),
  request(2n, { imageCount: 2, numInferenceSteps: 250 }),
  request(3n, { negativePrompt: "a dog", trueCfgScale: 2, numInferenceSteps: 200 }),
];
const otherClass = ["--run-type", "float16"];

let stack: LiveStack;
const undisturbed: string[][] = [];
let inOtherClass: string[] = [];

beforeAll(async () => {
  stack = await LiveStack.start();
  const group = await stack.group("g0");
  for (const spec of three) undisturbed.push(await stack.pictures(await stack.begin(spec)));
  await group.terminate();
  await stack.group("g1", otherClass);
  inOtherClass = await stack.pictures(await stack.begin(three[0]!));
  await stack.stop();
});
beforeEach(async () => {
  stack = await LiveStack.start();
});
afterEach(() => stack.stop());

describe("a preempted job", () => {
  test("stops at the next step boundary, and goes on from there with the same bytes", async () => {
    await stack.group("g0", ["--checkpoint-every-ms", "0"]);
    const id = await stack.begin(three[0]!);
    await stack.reaches(id, 50);
    const fence = await stack.fence(id);

    const events: string[] = [];
    const { bus } = stack.observer;
    const onError = (error: Error): void => {
      throw error;
    };
    const progress = listenBus(bus, {
      subject: groupSubject("default", "g0", "progress"),
      message: JobProgress,
      handle: (message) => {
        if (message.fence?.attempt === 1n) events.push(`step ${message.progress?.step}`);
      },
      onError,
    });
    const reports = listenBus(bus, {
      subject: leaderSubject("default", "report"),
      message: Report,
      handle: ({ event }) => {
        if (event?.$case !== "released") return;
        events.push(`released at ${event.value.units.map((unit) => unit.checkpointStep)}`);
      },
      onError,
    });
    const reply = await callBus(bus, {
      subject: groupSubject("default", "g0", "revoke"),
      request: Revoke,
      reply: CommandReply,
      body: { fence, reason: Reason.REASON_PREEMPTED },
      timeoutMs: 5_000,
    });
    events.push("answered");
    expect(reply).toMatchObject({ kind: "reply", value: { outcome: Outcome.OUTCOME_ACCEPTED } });
    await until(() => stack.history(id).attempts.length === 2);

    const after = events.slice(events.indexOf("answered") + 1);
    const steps = after.filter((event) => event.startsWith("step "));
    expect(steps.length).toBeLessThanOrEqual(1);
    const last = events.findLast((event) => event.startsWith("step "))?.slice("step ".length);
    expect(events.filter((event) => event.startsWith("released"))).toEqual([`released at ${last}`]);
    expect(await stack.pictures(id)).toEqual(undisturbed[0]);
    const [loss] = stack.history(id).losses();
    expect(loss?.steps).toBe(0);
    expect(stack.history(id).attempts[1]?.from).toBe(Number(last));
    await progress.stop();
    await reports.stop();
  });
});

describe("a drained group", () => {
  test("hands over every resident at its boundary, exits 0, and no step is run twice", async () => {
    const first = await stack.group("g0", ["--checkpoint-every-ms", "0"]);
    const ids: string[] = [];
    for (const spec of three) ids.push(await stack.begin(spec));
    for (const id of ids) await until(() => stack.history(id).attempts.length === 1);
    await Promise.any(ids.map((id) => stack.reaches(id, 20)));
    expect(await first.terminate()).toBe(0);
    await stack.group("g1");
    let handedOver = 0;
    for (const [i, id] of ids.entries()) {
      expect(await stack.pictures(id)).toEqual(undisturbed[i]);
      const history = stack.history(id);
      expect(history.violations).toEqual([]);
      expect(history.attempts.map(({ group }) => group)).toEqual(["g0", "g1"]);
      expect(history.losses().map(({ steps }) => steps)).toEqual([0]);
      handedOver += history.attempts[1]!.from;
    }
    expect(handedOver).toBeGreaterThanOrEqual(20);
  });
});

describe("a group of another numerics class", () => {
  test("begins a handed-over job at step 0, and says so", async () => {
    const first = await stack.group("g0");
    const id = await stack.begin(three[0]!);
    await stack.reaches(id, 50);
    const before = (await stack.get(id)).numericsClass;
    expect(await first.terminate()).toBe(0);
    const second = await stack.group("g1", otherClass);
    expect(await stack.pictures(id)).toEqual(inOtherClass);
    expect(second.log()).toContain("checkpoints are of another numerics class: from step 0");
    expect(stack.history(id).attempts[1]?.firstStep).toBe(0);
    const job = await stack.get(id);
    expect(job.numericsClass).not.toBe(before);
    expect(job.attempt).toBe(2n);
    const said = job.advisories.find(({ reason }) => reason === "NUMERICS_CLASS_CHANGED");
    expect(said?.message).toContain("from step 0");
    expect(said?.message).toContain(before);
  });
});
