import { describe, expect, test } from "vitest";
import { JobRecord as WireRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { ImageSpec } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { Status } from "@fluxline/proto/google/rpc/status.ts";
import { jobStates } from "../core/job.ts";
import { buildRecord, checkpointedUnit } from "../core/job-builder.ts";
import { transition } from "../core/job-transition.ts";
import { decodeRecord, encodeRecord, fromWireRecord, toWireRecord } from "./record-codec.ts";

/** Field 900, a length-delimited "x": of a version to come. */
const unknownField = Buffer.from([0xa2, 0x38, 0x01, 0x78]);

describe("job records", () => {
  test.each(jobStates)("a %s record comes back as it was", (state) => {
    const record = buildRecord({
      state,
      attempt: 2n ** 40n,
      arrival: 2n ** 60n,
      startTimeMs: 1_700_000_000_123,
      queueDeadlineMs: 1_700_000_000_999,
    });
    const wire = toWireRecord({ ...record, spec: undefined, units: [] });
    const back = decodeRecord(WireRecord.encode(wire).finish());
    expect(back).toEqual({ ...record, spec: undefined, units: [], _unknownFields: {} });
  });

  test("fields that this version does not know survive a change of the record", () => {
    const spec = undefined;
    const plain = encodeRecord(buildRecord({ spec, units: [], state: "queued" }));
    const unit = Buffer.from([0x82, 0x01, unknownField.length, ...unknownField]);
    const record = decodeRecord(Buffer.concat([plain, unit, unknownField]));
    const event = { kind: "placed", group: "g", incarnation: "i" } as const;
    const result = transition(record, event, 5);
    if (result.kind !== "changed") return expect.unreachable(result.why);
    const bytes = Buffer.from(encodeRecord(result.record));
    expect(bytes.includes(unknownField)).toBe(true);
    const again = WireRecord.decode(bytes);
    expect(again._unknownFields?.[(900 << 3) | 2]).toHaveLength(1);
    expect(again.units[0]?._unknownFields?.[(900 << 3) | 2]).toHaveLength(1);
    expect(again.group).toBe("g");
  });

  test("an error keeps details that we do not know", () => {
    const details = [{ typeUrl: "type.googleapis.com/other", value: Buffer.from("x") }];
    const error: Status = { code: 13, message: "boom", details };
    const wire = { ...toWireRecord(buildRecord({ state: "failed", spec: undefined })), error };
    const record = fromWireRecord(wire);
    expect(record.failure).toMatchObject({ code: "internal", message: "boom" });
    expect(toWireRecord(record).error).toEqual(error);
  });

  test.each([
    [0, "standard"],
    [1, "interactive"],
    [2, "standard"],
    [3, "batch"],
  ])("priority %s of the spec is the class %s, and stays in the spec", (priority, expected) => {
    const spec = ImageSpec.fromPartial({ prompt: "p", priority: priority as 0 | 1 | 2 | 3 });
    const record = decodeRecord(encodeRecord(buildRecord({ spec })));
    expect(record.priorityClass).toBe(expected);
    expect(decodeRecord(encodeRecord(record)).spec).toMatchObject({ priority });
  });

  test("a state of a version to come is refused, not guessed", () => {
    const wire = { ...toWireRecord(buildRecord({ spec: undefined })), state: 77 as never };
    expect(() => fromWireRecord(wire)).toThrow(/state 77/);
  });

  test("checkpoints keep their pointers", () => {
    const pointer = { sizeBytes: 5n, sha256: "ab" };
    const unit = checkpointedUnit(0, 3);
    const checkpoint = { ...unit.checkpoint, ...pointer };
    const record = buildRecord({ spec: undefined, units: [{ ...unit, checkpoint } as never] });
    expect(decodeRecord(encodeRecord(record)).units[0]).toMatchObject({
      checkpointStep: 3,
      checkpoint: { key: "p/default/job1/1/0-3", sizeBytes: 5n },
    });
  });
});
