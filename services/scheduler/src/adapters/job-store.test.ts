import { describe, expect, test } from "vitest";
import { AppError } from "@fluxline/kernel/error.ts";
import type { KeyValue, Stored, WriteOutcome } from "@fluxline/platform/bus/key-value.ts";
import { JobRecord as WireRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import type { ImageJob_State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { buildRecord } from "../core/job-builder.ts";
import { JobStore } from "./job-store.ts";
import { encodeRecord } from "./record-codec.ts";

const key = "default.job1";
const record = buildRecord({ spec: undefined });
const value = encodeRecord(record);
const silence = new AppError("unavailable", "no answer");
const full = new AppError("resource_exhausted", "full", { reason: "STORE_FULL" });
const unknown = { kind: "unknown", error: silence } as const;
const refused = { kind: "refused", error: full } as const;

/** A store over a bucket that answers writes in this order, and reads with what it holds. */
function storeOf(outcomes: WriteOutcome[], reads: (Stored | undefined | AppError)[]) {
  const tries = { writes: 0, reads: 0 };
  const write = async () => {
    const outcome = outcomes[Math.min(tries.writes, outcomes.length - 1)];
    tries.writes += 1;
    return outcome as WriteOutcome;
  };
  const get = async () => {
    const read = reads[Math.min(tries.reads, reads.length - 1)];
    tries.reads += 1;
    if (read instanceof AppError) throw read;
    return read;
  };
  const kv: Pick<KeyValue, "create" | "update" | "get"> = { create: write, update: write, get };
  const untilMs = performance.now() + 3_000;
  const store = new JobStore(kv as KeyValue, "p", () => performance.now() < untilMs);
  return { store, tries };
}

describe("a write whose answer is lost, and that is refused when it is sent again", () => {
  test("was written if the store has it", async () => {
    const { store } = storeOf([unknown, refused], [{ value, revision: 7 }]);
    const sizeBytes = value.length;
    expect(await store.write(key, record, 0)).toEqual({ kind: "written", revision: 7, sizeBytes });
  });

  test("was refused if the store has what was there before", async () => {
    expect(await storeOf([unknown, refused], [undefined]).store.write(key, record, 0)).toEqual(
      refused,
    );
    const before = { value: encodeRecord({ ...record, arrival: 9n }), revision: 3 };
    expect(await storeOf([unknown, refused], [before]).store.write(key, record, 3)).toEqual(
      refused,
    );
  });

  test("is neither until the store can be read", async () => {
    const { store, tries } = storeOf([unknown, refused], [silence, { value, revision: 7 }]);
    expect(await store.write(key, record, 0)).toMatchObject({ kind: "written", revision: 7 });
    expect(tries.reads).toBe(2);
  });

  test("is refused without a look if no answer was lost", async () => {
    const { store, tries } = storeOf([refused], [silence]);
    expect(await store.write(key, record, 0)).toEqual(refused);
    expect(tries.reads).toBe(0);
  });
});

describe("a record that this version cannot read", () => {
  const wire = WireRecord.fromPartial({ state: 99 as ImageJob_State });
  test.each([
    ["of a state to come", WireRecord.encode(wire).finish()],
    ["that is no message", new Uint8Array([0x12, 0x7f])],
  ])("%s refuses what is to be written in its place, at once", async (_, bytes) => {
    const { store, tries } = storeOf([{ kind: "conflict" }], [{ value: bytes, revision: 3 }]);
    const result = await store.write(key, record, 0);
    expect(result).toMatchObject({ kind: "refused", error: { code: "data_loss" } });
    expect(tries).toEqual({ writes: 1, reads: 1 });
  });
});
