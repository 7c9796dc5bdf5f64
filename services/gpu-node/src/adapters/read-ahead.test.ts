import { expect, test } from "vitest";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FileRange } from "../core/image-model.ts";
import { mergedRanges, readAhead } from "./read-ahead.ts";

const MIB = 1024 * 1024;
const range = (file: string, offset: number, length: number): FileRange => {
  return { file, offset, length };
};

test.each<[string, FileRange[], FileRange[]]>([
  ["nothing is nothing", [], []],
  ["neighbours are one", [range("a", 0, 8), range("a", 8, 8)], [range("a", 0, 16)]],
  ["in whatever order they come", [range("a", 8, 8), range("a", 0, 8)], [range("a", 0, 16)]],
  ["with a small gap, too", [range("a", 0, 8), range("a", 99, 1)], [range("a", 0, 100)]],
  [
    "with a large gap they are two",
    [range("a", 0, 8), range("a", 2 * MIB, 8)],
    [range("a", 0, 8), range("a", 2 * MIB, 8)],
  ],
  ["files stay apart", [range("b", 0, 8), range("a", 8, 8)], [range("b", 0, 8), range("a", 8, 8)]],
  ["one inside another adds nothing", [range("a", 0, 9), range("a", 2, 3)], [range("a", 0, 9)]],
])("ranges: %s", (_, given, merged) => {
  expect(mergedRanges(given)).toEqual(merged);
});

test("ends with the file, without one, and when it is told to", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fluxline-ahead-"));
  const file = join(folder, "weights");
  writeFileSync(file, new Uint8Array(3 * MIB));
  const none = new AbortController().signal;
  await readAhead([range(file, 0, 3 * MIB)], none);
  await readAhead([range(file, 0, 2 ** 40)], none);
  await readAhead([range(join(folder, "gone"), 0, 1), range(folder, 0, 1)], none);
  await readAhead([range(file, 0, 3 * MIB)], AbortSignal.abort());
  rmSync(folder, { recursive: true });
});
