import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openDataFolder } from "./data-folder.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-data-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function failureOf(work: () => unknown): AppError {
  try {
    work();
  } catch (thrown) {
    if (thrown instanceof AppError) return thrown;
  }
  throw new Error("no AppError was thrown");
}

test("a folder in use is refused with its name and its owner, and free again after", () => {
  const first = openDataFolder(folder);
  const error = failureOf(() => openDataFolder(folder));
  expect(error).toMatchObject({
    code: "failed_precondition",
    reason: "DATA_FOLDER_IN_USE",
    details: { folder, pid: String(process.pid) },
  });
  first.release();
  openDataFolder(folder).release();
  expect(existsSync(join(folder, "lock"))).toBe(false);
});

test("the lock of a process that is gone is taken over", async () => {
  const child = spawn(process.execPath, ["-e", ""]);
  await new Promise((resolve) => child.once("exit", resolve));
  writeFileSync(join(folder, "lock"), JSON.stringify({ pid: child.pid, started: "1" }));
  openDataFolder(folder).release();
});

test("a process that only has the same id is no owner", () => {
  writeFileSync(join(folder, "lock"), JSON.stringify({ pid: process.ppid, started: "1" }));
  openDataFolder(folder).release();
});

test("a folder that cannot be made is named", () => {
  const file = join(folder, "file");
  writeFileSync(file, "");
  const error = failureOf(() => openDataFolder(join(file, "data")));
  expect(error.reason).toBe("DATA_FOLDER_UNUSABLE");
  expect(error.message).toContain(join(file, "data"));
});
