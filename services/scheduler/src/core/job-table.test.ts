import { describe, expect, test } from "vitest";
import type { PriorityClass } from "@fluxline/kernel/priority-class.ts";
import { buildRecord } from "./job-builder.ts";
import type { JobRecord } from "./job.ts";
import { JobTable } from "./job-table.ts";

const waiting = (id: string, priorityClass: PriorityClass, second: number): JobRecord =>
  buildRecord({ id, priorityClass, createTimeMs: second * 1_000, arrival: BigInt(second) });

function order(records: readonly JobRecord[]): string[] {
  const table = new JobTable();
  for (const record of records) table.adopt({ record, revision: 1, sizeBytes: 100 }, 0);
  return table.queue(0).map(({ record }) => record!.id);
}

describe("the order of the queue", () => {
  test.each<[string, JobRecord[], string[]]>([
    [
      "is that of arrival within a class",
      [waiting("b", "standard", 2), waiting("a", "standard", 1), waiting("c", "standard", 3)],
      ["a", "b", "c"],
    ],
    [
      "lets a more urgent class pass what has not waited for its patience",
      [
        waiting("batch", "batch", 1),
        waiting("standard", "standard", 2),
        waiting("interactive", "interactive", 6),
      ],
      ["interactive", "standard", "batch"],
    ],
    [
      "lets nothing pass what has",
      [
        waiting("batch", "batch", 1),
        waiting("standard", "standard", 57),
        waiting("interactive", "interactive", 62),
      ],
      ["batch", "standard", "interactive"],
    ],
    [
      "is that of arrival where turns are equal",
      [waiting("interactive", "interactive", 6), waiting("standard", "standard", 1)],
      ["standard", "interactive"],
    ],
  ])("%s", (_, records, expected) => {
    expect(order(records)).toEqual(expected);
  });

  test("leaves out what is held back and what does not wait", () => {
    const table = new JobTable();
    const adopt = (record: JobRecord) => table.adopt({ record, revision: 1, sizeBytes: 100 }, 0);
    adopt(waiting("free", "batch", 3));
    adopt(waiting("held", "interactive", 1)).heldUntilMs = 5_000;
    adopt({ ...waiting("running", "interactive", 2), state: "running", group: "g" });
    expect(table.queue(4_999).map(({ record }) => record?.id)).toEqual(["free"]);
    expect(table.queue(5_000).map(({ record }) => record?.id)).toEqual(["held", "free"]);
  });
});
