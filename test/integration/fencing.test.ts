/**
 * Fencing with the real parts: whatever is late, lost or sent by somebody who was replaced changes
 * nothing, and each job gives the bytes that it gives undisturbed.
 */
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createLog } from "@fluxline/platform/log.ts";
import { type Objects, openObjects } from "@fluxline/platform/bus/object-store.ts";
import { callBus, type Served, listenBus } from "@fluxline/platform/bus/request.ts";
import { checkpointsStore, groupSubject, resultsStore } from "@fluxline/platform/bus/topology.ts";
import {
  Assign,
  CommandReply,
  CommandReply_Outcome as Outcome,
  Revoke,
  Revoke_Reason as Reason,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { orphanAgeMsMin, sweepBlobs } from "@fluxline/scheduler/adapters/blob-sweeper.ts";
import { fromWireRecord } from "@fluxline/scheduler/adapters/record-codec.ts";
import { LiveStack } from "../support/live-stack.ts";
import { until } from "../support/until.ts";

const LONG = {
  prompt: "a photo of a red cat",
  numInferenceSteps: 400,
  seed: 5n,
  width: 64,
  height: 64,
};
const simulated = ["--provider", "simulated", "--simulated-step-seconds"];

let stack: LiveStack;
let undisturbed: string[] = [];
let assigns: Assign[] = [];
let listening: Served[] = [];

beforeAll(async () => {
  stack = await LiveStack.start();
  await stack.group("g0");
  undisturbed = await stack.pictures(await stack.begin(LONG));
  await stack.stop();
});

beforeEach(async () => {
  stack = await LiveStack.start();
  assigns = [];
  listening = ["g0", "g1"].map((group) =>
    listenBus(stack.observer.bus, {
      subject: groupSubject("default", group, "assign"),
      message: Assign,
      handle: (assign) => void assigns.push(assign),
      onError: (error) => {
        throw error;
      },
    }),
  );
});

afterEach(async () => {
  for (const one of listening) await one.stop();
  await stack.stop();
});

async function send(assign: Assign): Promise<Outcome> {
  const { pool, group } = assign.fence!;
  const outcome = await callBus(stack.observer.bus, {
    subject: groupSubject(pool, group, "assign"),
    request: Assign,
    reply: CommandReply,
    body: assign,
    timeoutMs: 5_000,
  });
  if (outcome.kind !== "reply") throw new Error(`no reply: ${outcome.why}`);
  return outcome.value.outcome;
}

async function revoke(body: Revoke): Promise<Outcome> {
  const { pool, group } = body.fence!;
  const outcome = await callBus(stack.observer.bus, {
    subject: groupSubject(pool, group, "revoke"),
    request: Revoke,
    reply: CommandReply,
    body,
    timeoutMs: 5_000,
  });
  if (outcome.kind !== "reply") throw new Error(`no reply: ${outcome.why}`);
  return outcome.value.outcome;
}

/** What the leader's own sweep does, as if all objects were old enough. */
async function sweep(stores: readonly Objects[], id: string): Promise<void> {
  const record = fromWireRecord(await stack.record(id));
  await sweepBlobs({
    pool: "default",
    stores,
    look: (key) => (key === `default.${id}` ? record : undefined),
    isUnreadable: () => false,
    nowMs: Date.now() + orphanAgeMsMin + 1_000,
    log: createLog("test", "silent"),
    goOn: () => true,
  });
}

const keysOf = async (objects: Objects): Promise<string[]> =>
  (await objects.list()).map(({ key }) => key);

describe("a group that was held for lost and comes back", () => {
  test("stores a result to which no record points, and which the sweeper takes away", async () => {
    const results = await openObjects(stack.observer.bus, resultsStore);
    // Its decoding takes half a second, in which it is frozen: what is left then is to store.
    const first = await stack.group("g0", [...simulated, "1"]);
    const id = await stack.begin({ ...LONG, numInferenceSteps: 2 });
    const decoding = { kind: "phase", phase: "decoding", thenMs: 0 } as const;
    expect(await stack.observer.untilMoment("g0", decoding, 30_000)).toBe(true);
    first.freeze();
    await stack.group("g1", [...simulated, "0.01"]);
    const pictures = await stack.pictures(id);
    const real = await keysOf(results);
    expect(real).toEqual([`default/default/${id}/2/0`]);

    first.thaw();
    const late = `default/default/${id}/1/0`;
    await until(async () => (await keysOf(results)).includes(late), 20_000);
    await until(() => first.log().includes("report was stale"), 20_000);
    const { units, attempt } = await stack.record(id);
    expect(units.map(({ result }) => result?.key)).toEqual(real);
    expect(attempt).toBe(2n);
    await sweep([results], id);
    expect(await keysOf(results)).toEqual(real);
    expect(await stack.pictures(id)).toEqual(pictures);
  });

  test("stores a checkpoint to which no record points, and which the sweeper takes away", async () => {
    const checkpoints = await openObjects(stack.observer.bus, checkpointsStore);
    const options = [...simulated, "0.3", "--checkpoint-every-ms", "100"];
    const first = await stack.group("g0", options);
    const id = await stack.begin({ ...LONG, numInferenceSteps: 60 });
    await stack.reaches(id, 3);
    first.freeze();
    await stack.group("g1", options);
    await until(() => stack.history(id).attempts.at(-1)?.group === "g1", 30_000);
    await until(async () => (await stack.record(id)).units[0]!.checkpoint !== undefined);
    await until(async () => {
      const pointer = (await stack.record(id)).units[0]!.checkpoint;
      return pointer?.key.startsWith(`default/default/${id}/2/`) ?? false;
    }, 20_000);

    first.thaw();
    const ofFirst = async (): Promise<string[]> =>
      (await keysOf(checkpoints)).filter((key) => key.startsWith(`default/default/${id}/1/`));
    await until(async () => (await ofFirst()).length > 0, 20_000);
    await until(() => first.log().includes("report was stale"), 20_000);
    const pointer = (await stack.record(id)).units[0]!.checkpoint!.key;
    expect(pointer).toContain(`${id}/2/`);
    await sweep([checkpoints], id);
    expect(await ofFirst()).toEqual([]);
    expect((await stack.get(id)).attempt).toBe(2n);
  });
});

describe("an assign", () => {
  test("that comes late, to a new incarnation of its group, is refused", async () => {
    const first = await stack.group("g0");
    const id = await stack.begin(LONG);
    await stack.reaches(id, 50);
    const [late] = assigns;
    await first.kill();
    const again = await stack.group("g0");
    await stack.reaches(id, 60);
    expect(await send(late!)).toBe(Outcome.OUTCOME_STALE);
    // Not even under the number of the present attempt.
    const { attempt, leaderEpoch } = await stack.fence(id);
    const forged = { ...late!, fence: { ...late!.fence!, attempt, leaderEpoch } };
    expect(await send(forged)).toBe(Outcome.OUTCOME_STALE);
    expect(again.log()).toContain("stale assign refused");
    expect(await stack.pictures(id)).toEqual(undisturbed);
    expect((await stack.get(id)).attempt).toBe(2n);
  });

  test("that gets no answer is never sent again, and what it began is taken back", async () => {
    const frozen = await stack.group("g0");
    frozen.freeze();
    const id = await stack.begin(LONG);
    await until(() => assigns.length === 1);
    await stack.group("g1");
    await stack.reaches(id, 1);
    frozen.thaw();
    expect(await stack.pictures(id)).toEqual(undisturbed);
    const sent = assigns.map(({ fence }) => `${fence!.job} ${fence!.attempt}`);
    expect(sent).toEqual([...new Set(sent)]);
    expect(stack.history(id).judge([])).toEqual([]);
    expect((await stack.get(id)).attempt).toBe(BigInt(sent.length));
    await until(() => stack.observer.residents.get("g0") === 0, 20_000);
  });

  test("that is sent twice runs once", async () => {
    await stack.group("g0");
    const id = await stack.begin(LONG);
    await stack.reaches(id, 50);
    expect(await send(assigns[0]!)).toBe(Outcome.OUTCOME_ACCEPTED);
    expect(await stack.pictures(id)).toEqual(undisturbed);
    expect((await stack.get(id)).attempt).toBe(1n);
    expect(stack.history(id).judge([])).toEqual([]);
  });
});

test("commands of a leader that was replaced are refused", async () => {
  await stack.group("g0");
  const id = await stack.begin({ ...LONG, numInferenceSteps: 1_000 });
  await stack.reaches(id, 20);
  const before = await stack.fence(id);
  const [old] = assigns;
  await stack.replaceScheduler();
  const other = await stack.begin(LONG);
  await stack.reaches(other, 1);
  const { leaderEpoch } = await stack.fence(other);
  expect(leaderEpoch).toBeGreaterThan(before.leaderEpoch);

  expect(await revoke({ fence: before, reason: Reason.REASON_CANCELLED })).toBe(
    Outcome.OUTCOME_STALE,
  );
  const newJob = { ...old!, fence: { ...old!.fence!, job: "f".repeat(32) } };
  expect(await send(newJob)).toBe(Outcome.OUTCOME_STALE);
  expect(await stack.pictures(other)).toEqual(undisturbed);
  await stack.ended(id);
  expect((await stack.get(id)).attempt).toBe(1n);
});

describe("an outage of NATS", () => {
  test.each([
    ["that swallows everything for longer than a group may be silent", "pause"],
    ["that loses every connection", "restart"],
  ])("%s requeues nothing", async (_, how) => {
    await stack.group("g0");
    await stack.group("g1", [...simulated, "0.05", "--max-residents", "1"]);
    const ids = [await stack.begin(LONG), await stack.begin({ ...LONG, numInferenceSteps: 300 })];
    for (const id of ids) await until(() => stack.history(id).attempts[0]?.ran === true, 20_000);
    if (how === "pause") {
      stack.nats.pause();
      await new Promise((resolve) => setTimeout(resolve, 9_000));
      stack.nats.resume();
    } else {
      await stack.nats.kill();
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      await stack.nats.restart();
    }
    for (const id of ids) {
      await stack.ended(id);
      expect((await stack.get(id)).attempt).toBe(1n);
      expect(stack.history(id).judge([])).toEqual([]);
    }
  });
});
