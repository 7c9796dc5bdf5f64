import { expect, test } from "vitest";
import { type CachedModel, describeFiles, describeList, describePulled } from "./cache-view.ts";

const model = "org/name@0123456789abcdef";
const file = (path: string, state: "verified" | "whole" | "part", presentBytes = 2048) => ({
  path,
  size: 2048,
  presentBytes,
  state,
});

test("a whole model, and a part of one", () => {
  const whole: CachedModel = { model, folder: "/c", files: [file("a", "verified")] };
  expect(describePulled(whole)).toContain("here    2.0 KiB");
  const part = { ...whole, files: [file("a", "verified"), file("b", "part", 1024)] };
  expect(describePulled(part)).toContain("here    3.0 KiB of 4.0 KiB, as asked for");
});

test("verified is said of whole files only", () => {
  const files = [file("a", "verified"), file("bb", "whole"), file("c", "part", 1024)];
  const lines = describeFiles({ model, folder: "/c", files }).split("\n");
  expect(lines.slice(3, 7)).toEqual([
    "file  size     state",
    "a     2.0 KiB  verified",
    "bb    2.0 KiB  whole; the hub gives no digest of it",
    "c     2.0 KiB  1.0 KiB of it here, not verified",
  ]);
  expect(lines.at(-1)).toContain("1 of 3 files verified; 1 are here in part");
});

test("the list says what is in use, and an empty one what to do", () => {
  const one = {
    model: "org/name",
    commit: "0123456789abcdef",
    revisions: ["main"],
    bytes: 1024,
    lastUseMs: 0,
    uses: [{ pid: 7, host: "h" }],
    folder: "/c/x",
  };
  const text = describeList({ cache: "/c", bytesMax: 4096, models: [one] }, 60_000);
  expect(text).toMatch(/org\/name {2}0123456789ab {2}main {7}1\.0 KiB {2}1 min 0 s ago {2}7 on h/);
  expect(text).toContain("cache  /c, 1.0 KiB, limit 4.0 KiB");
  expect(describeList({ cache: "/c", models: [] }, 0)).toContain("fluxline model pull ORG/NAME");
});
