/**
 * A runner that dies with four rows resident: the innocent ones pay nothing, and the one that kills
 * it ends FAILED with the reason, once it has run alone.
 */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { guidanceEmbedding } from "@fluxline/gpu-node/models/flux-positions.ts";
import { ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { LiveStack } from "../support/live-stack.ts";

const POISONOUS_GUIDANCE = 6.25;
const hook = fileURLToPath(new URL("../support/poisoned-runner.ts", import.meta.url));
const environment = {
  NODE_OPTIONS: `--import=${hook}`,
  FLUXLINE_TEST_POISON: String(guidanceEmbedding(POISONOUS_GUIDANCE, "float32")[0]),
};
const innocent = (seed: bigint) => ({
  prompt: "a photo of a red cat",
  numInferenceSteps: 300,
  guidanceScale: 3.5,
  seed,
  width: 64,
  height: 64,
});
const seeds = [1n, 2n, 3n];

let stack: LiveStack;
beforeAll(async () => {
  stack = await LiveStack.start();
});
afterAll(() => stack.stop());

test("a runner that dies with four rows resident costs the innocent nothing", async () => {
  const group = await stack.group("g0", ["--max-batch", "4"], environment);
  const undisturbed: string[][] = [];
  for (const seed of seeds) {
    undisturbed.push(await stack.pictures(await stack.begin(innocent(seed))));
  }
  const ids: string[] = [];
  for (const seed of seeds) ids.push(await stack.begin(innocent(seed)));
  for (const id of ids) await stack.reaches(id, 1);
  const poisonous = await stack.begin({
    ...innocent(9n),
    numInferenceSteps: 20,
    guidanceScale: POISONOUS_GUIDANCE,
  });

  for (const [i, id] of ids.entries()) {
    expect(await stack.pictures(id)).toEqual(undisturbed[i]);
    const { attempt, blamedFailures, suspect, fruitlessAttempts } = await stack.record(id);
    expect({ attempt, blamedFailures, suspect, fruitlessAttempts }).toEqual({
      attempt: 1n,
      blamedFailures: 0,
      suspect: false,
      fruitlessAttempts: 0,
    });
    expect(stack.history(id).judge([])).toEqual([]);
  }
  const job = await stack.ended(poisonous);
  expect(job.state).toBe(State.STATE_FAILED);
  expect(job.error?.message).toContain("it last said: Error: the device met a value");
  const { attempt, blamedFailures } = await stack.record(poisonous);
  expect({ attempt, blamedFailures }).toEqual({ attempt: 2n, blamedFailures: 2 });
  // Its second attempt had the group to itself: it began when the others were done.
  const [, alone] = stack.history(poisonous).attempts;
  for (const id of ids) expect(stack.history(id).endedMs).toBeLessThan(alone!.placedMs);
  expect(group.child.exitCode).toBeNull();
  expect(await stack.pictures(await stack.begin(innocent(1n)))).toEqual(undisturbed[0]);
});
