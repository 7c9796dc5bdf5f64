import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { checkOutput, chooseFormat, type OutputPlan, writeImage } from "./output-file.ts";

let folder = "";
const home = process.cwd();
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-output-"));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
  expect(process.cwd()).toBe(home);
});

const plan = (changes: Partial<OutputPlan>): OutputPlan => ({
  file: join(folder, "out.png"),
  overwrite: false,
  format: "png",
  count: 1,
  ...changes,
});
const bytes = (text: string) => Buffer.from(text);

describe("the format", () => {
  test.each([
    ["is png unless anything else is said", undefined, undefined, "png"],
    ["follows the ending", undefined, "a.JPG", "jpeg"],
    ["is what was asked for", "webp", "picture", "webp"],
  ] as const)("%s", (_, asked, file, format) => expect(chooseFormat(asked, file)).toBe(format));

  test.each(["a.gif", "a.tiff", "-"])("is refused for the name %s", (file) => {
    expect(() => chooseFormat(undefined, file)).toThrow("ends in .png, .jpg, .jpeg or .webp");
  });

  test("cannot differ from the ending", () => {
    expect(() => chooseFormat("jpeg", "a.png")).toThrow("--format: is jpeg, but --output a.png");
  });
});

describe("a picture", () => {
  test("is written under the name that was asked for", () => {
    expect(writeImage(plan({}), 0, 7n, bytes("x"))).toBe(join(folder, "out.png"));
    expect(readdirSync(folder)).toEqual(["out.png"]);
  });
  test("of several gets its number", () => {
    expect(writeImage(plan({ count: 2 }), 1, 7n, bytes("x"))).toBe(join(folder, "out-1.png"));
  });
  test("never replaces another one unasked", () => {
    writeFileSync(join(folder, "out.png"), "old");
    expect(() => checkOutput(plan({}))).toThrow("exists; name another file, or add --overwrite");
    expect(() => writeImage(plan({}), 0, 7n, bytes("new"))).toThrow("exists");
    expect(readFileSync(join(folder, "out.png"), "utf8")).toBe("old");
  });
  test("replaces one when asked", () => {
    writeFileSync(join(folder, "out.png"), "old");
    checkOutput(plan({ overwrite: true }));
    writeImage(plan({ overwrite: true }), 0, 7n, bytes("new"));
    expect(readFileSync(join(folder, "out.png"), "utf8")).toBe("new");
    expect(readdirSync(folder)).toEqual(["out.png"]);
  });
  test("without a name is named by its seed, and by a number when that is taken", () => {
    const names = [0, 1, 2].map(() => inFolder(() => writeImage(unnamed, 0, 7n, bytes("x"))));
    expect(names).toEqual(["fluxline-7.png", "fluxline-7.2.png", "fluxline-7.3.png"]);
  });
  test("in a folder that is not there is refused before any work", () => {
    const file = join(folder, "nowhere/out.png");
    expect(() => checkOutput(plan({ file }))).toThrow("nowhere does not exist; make it");
  });
});

const unnamed: OutputPlan = { file: undefined, overwrite: false, format: "png", count: 1 };

function inFolder<T>(work: () => T): T {
  process.chdir(folder);
  try {
    return work();
  } finally {
    process.chdir(home);
  }
}
