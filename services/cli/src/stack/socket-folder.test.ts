import { existsSync, mkdirSync, mkdtempSync, readlinkSync, rmSync, statSync } from "node:fs";
import { symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { makeSocketFolder } from "./socket-folder.ts";

let data = "";
let parent = "";
beforeEach(() => {
  data = mkdtempSync(join(tmpdir(), "fluxline-data-"));
  parent = mkdtempSync(join(tmpdir(), "fluxline-parent-"));
});
afterEach(() => {
  for (const folder of [data, parent]) rmSync(folder, { recursive: true, force: true });
});

function reasonOf(work: () => unknown): AppError {
  try {
    work();
  } catch (thrown) {
    if (thrown instanceof AppError) return thrown;
  }
  throw new Error("no AppError was thrown");
}

test("it is its owner's alone, named by a link in the data folder, and gone after", () => {
  const folder = makeSocketFolder(data, parent);
  expect(statSync(folder.path).mode & 0o777).toBe(0o700);
  expect(readlinkSync(join(data, "sockets"))).toBe(folder.path);
  folder.remove();
  folder.remove();
  expect(existsSync(folder.path)).toBe(false);
  expect(existsSync(join(data, "sockets"))).toBe(false);
});

test("what a killed start left behind is removed by the next", () => {
  const first = makeSocketFolder(data, parent);
  writeFileSync(join(first.path, "g0-1.sock"), "");
  const second = makeSocketFolder(data, parent);
  expect(existsSync(first.path)).toBe(false);
  expect(existsSync(second.path)).toBe(true);
});

test("a link to a folder that is not ours goes, the folder stays", () => {
  const precious = join(parent, "precious");
  mkdirSync(precious);
  symlinkSync(precious, join(data, "sockets"));
  makeSocketFolder(data, parent).remove();
  expect(existsSync(precious)).toBe(true);
});

test("a socket fits however long the name of the data folder is", async () => {
  const deep = join(data, "a".repeat(120));
  mkdirSync(deep);
  const { path } = makeSocketFolder(deep, parent);
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(join(path, "g63-63.sock"), resolve);
  });
  await new Promise((resolve) => server.close(resolve));
});

test("a temporary folder with too long a name is refused with the way out", () => {
  const error = reasonOf(() => makeSocketFolder(data, join(parent, "b".repeat(90))));
  expect(error).toMatchObject({ code: "failed_precondition", reason: "SOCKET_FOLDER_UNUSABLE" });
  expect(error.message).toContain("TMPDIR");
});

test("a temporary folder that is not there is named", () => {
  const nowhere = join(parent, "nowhere");
  const error = reasonOf(() => makeSocketFolder(data, nowhere));
  expect(error.message).toContain(nowhere);
});
