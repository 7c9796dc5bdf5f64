import { describe, expect, test } from "vitest";
import { AppError } from "@fluxline/kernel/error.ts";
import { createLog } from "@fluxline/platform/log.ts";
import { buildRecord } from "../../core/job-builder.ts";
import type { JobState } from "../../core/job.ts";
import { cancelAbandoned } from "./abandoned-job.ts";

const noLeader = new AppError("unavailable", "nobody leads", { reason: "NO_LEADER" });
const missing = new AppError("not_found", "no such job", { reason: "JOB_NOT_FOUND" });

/** How often the leader was asked; `answer` of each attempt. */
async function attempts(
  answer: (attempt: number) => AppError | undefined,
  options: { state?: JobState; forMs?: number } = {},
): Promise<number> {
  let asked = 0;
  const cancel = async () => {
    const error = answer(++asked);
    if (error) throw error;
    return { value: new Uint8Array(), revision: 1 };
  };
  const record = buildRecord({ state: options.state ?? "running" });
  await cancelAbandoned(
    { pool: "p", id: "job1" },
    {
      leader: { cancel },
      mirror: { get: (key) => ({ key, record, revision: 1, progress: undefined }) },
      tenant: "default",
      log: createLog("test", "silent"),
      everyMs: 1,
      forMs: options.forMs ?? 5_000,
    },
  );
  return asked;
}

describe("the cancel of a job whose client left", () => {
  test("is tried until the next leader answers, longer than a take-over takes", async () => {
    expect(await attempts((attempt) => (attempt <= 20 ? noLeader : undefined))).toBe(21);
  });

  test("ends when the job is not there, or has ended", async () => {
    expect(await attempts(() => missing)).toBe(1);
    expect(await attempts(() => noLeader, { state: "succeeded" })).toBe(1);
  });

  test("ends some time also when nobody ever answers", async () => {
    expect(await attempts(() => noLeader, { forMs: 20 })).toBeGreaterThan(1);
  });
});
