import { describe, expect, test } from "vitest";
import { port, processCount, realNumber, seed, threadCount, wholeNumber } from "./option-value.ts";

describe("accepted", () => {
  test.each([
    ["a width", () => wholeNumber(64)("64"), 64],
    ["no previews", () => wholeNumber(4, { min: 0, max: 16 })("0"), 0],
    ["a width that the server is to refuse", () => wholeNumber(64)("65"), 65],
    ["a guidance", () => realNumber(3.5)("3.5"), 3.5],
    ["an exponent", () => realNumber(3.5)("1e-3"), 0.001],
    ["nan, for the server to refuse", () => realNumber(3.5)("nan"), Number.NaN],
    ["infinity, for the server to refuse", () => realNumber(3.5)("-inf"), -Infinity],
    ["no guidance", () => realNumber(3.5)("0"), 0],
    ["the largest seed", () => seed("18446744073709551615"), 2n ** 64n - 1n],
    ["any free port", () => port("0"), 0],
    ["a number of stages", () => processCount("64"), 64],
  ])("%s", (_, parse, value) => expect(parse()).toEqual(value));
});

describe("refused with a way out", () => {
  test.each([
    ["a width in words", () => wholeNumber(64)("wide"), "like 64"],
    ["no steps", () => wholeNumber(20)("0"), "from 1 to 2147483647"],
    ["a negative width", () => wholeNumber(64)("-64"), "from 1"],
    ["too many previews", () => wholeNumber(4, { min: 0, max: 16 })("17"), "from 0 to 16"],
    ["negative guidance", () => realNumber(3.5)("-1"), "0 or more"],
    ["half a pixel", () => wholeNumber(64)("64.5"), "whole number"],
    ["a width no field can hold", () => wholeNumber(64)("4294967296"), "2147483647"],
    ["an empty number", () => realNumber(3.5)(""), "like 3.5"],
    ["a hexadecimal word", () => realNumber(3.5)("fast"), "like 3.5"],
    ["no stages", () => processCount("0"), "1 to 64"],
    ["more groups than a machine holds", () => processCount("65"), "1 to 64"],
    ["half a group", () => processCount("1.5"), "1 to 64"],
    ["a negative seed", () => seed("-1"), "from 0"],
    ["a seed of 65 bits", () => seed("18446744073709551616"), "18446744073709551615"],
    ["port 65536", () => port("65536"), "65535"],
    ["no threads", () => threadCount("0"), "from 1"],
  ])("%s", (_, parse, words) => expect(parse).toThrow(words));
});
