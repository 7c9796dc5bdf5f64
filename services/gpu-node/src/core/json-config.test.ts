import { describe, expect, test } from "vitest";
import { JsonConfig } from "./json-config.ts";

const FILE = "/models/x/vae/config.json";
const config = (values: Record<string, unknown>) => new JsonConfig(FILE, values);

test("reads values, and takes null for absent", () => {
  const read = config({
    n: 3,
    x: 0.5,
    yes: false,
    name: "silu",
    list: [1, 2],
    words: ["a"],
    no: null,
  });
  expect(read.integer("n", { min: 1 })).toBe(3);
  expect(read.number("x")).toBe(0.5);
  expect(read.boolean("yes")).toBe(false);
  expect(read.oneOf("name", ["relu", "silu"])).toBe("silu");
  expect(read.integers("list")).toEqual([1, 2]);
  expect(read.strings("words")).toEqual(["a"]);
  expect(read.has("no")).toBe(false);
  expect(read.integer("no", { fallback: 7 })).toBe(7);
  expect(read.boolean("absent", true)).toBe(true);
  expect(read.integers("absent", { fallback: [4] })).toEqual([4]);
});

test("does not take inherited properties for keys", () => {
  expect(config({}).has("constructor")).toBe(false);
});

describe("names file, key and value of", () => {
  test.for<[string, (read: JsonConfig) => unknown, unknown, string]>([
    ["a fraction", (read) => read.integer("key"), 1.5, "is 1.5; use a whole number"],
    ["a number as text", (read) => read.integer("key"), "3", 'is "3"; it must be a whole number'],
    ["a missing number", (read) => read.integer("key"), undefined, "is missing"],
    ["a number below its minimum", (read) => read.integer("key", { min: 1 }), 0, "at least 1"],
    ["a number outside its range", (read) => read.integer("key", { min: 1, max: 4 }), 9, "1 to 4"],
    ["a number at an open bound", (read) => read.number("key", { above: 0 }), 0, "above 0"],
    ["infinity", (read) => read.number("key"), Infinity, "it must be a number"],
    ["a boolean as number", (read) => read.boolean("key"), 1, "true or false"],
    ["a value that is not supported", (read) => read.oneOf("key", ["a", "b"]), "c", "a, b"],
    ["a list with a zero", (read) => read.integers("key"), [1, 0], "at least 1"],
    ["an empty list", (read) => read.integers("key"), [], "is []"],
    ["a list of mixed kinds", (read) => read.strings("key"), ["a", 1], "list of strings"],
  ])("%s", ([, run, value, words]) => {
    expect(() => run(config({ key: value }))).toThrow(`${FILE}: key: `);
    expect(() => run(config({ key: value }))).toThrow(words);
  });

  test.for<[string, string, string]>([
    ["a file that is not JSON", "{oops", "is not JSON"],
    ["an empty file", "", "is not JSON"],
    ["a file that holds a list", "[1]", "holds [1] where a JSON object is expected"],
  ])("%s", ([, text, words]) => {
    expect(() => JsonConfig.parse(FILE, text)).toThrow(FILE);
    expect(() => JsonConfig.parse(FILE, text)).toThrow(words);
  });
});
