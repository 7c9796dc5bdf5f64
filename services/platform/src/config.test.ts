import { expect, test } from "vitest";
import { describeConfig, list, onOff, readConfig, setting, text, wholeNumber } from "./config.ts";

const tree = {
  url: setting("X_URL", text, "Where."),
  port: setting("X_PORT", wholeNumber(0, 65_535).default(0), "Which port."),
  loud: setting("X_LOUD", onOff.default(false), "How loud."),
  pools: setting("X_POOLS", list.default([]), "Which pools."),
};

test("reads what is set and takes defaults for the rest; empty counts as not set", () => {
  const env = { X_URL: "nats://h", X_PORT: "", X_LOUD: "on", X_POOLS: "a, b,," };
  expect(readConfig(tree, env)).toEqual({
    url: "nats://h",
    port: 0,
    loud: true,
    pools: ["a", "b"],
  });
});

test("names every wrong variable at once, with its value", () => {
  expect(() => readConfig(tree, { X_PORT: "70000", X_LOUD: "perhaps" })).toThrow(
    /X_URL: is not set.*X_PORT: is "70000".*X_LOUD: is "perhaps"/s,
  );
});

test("prints its reference page", () => {
  expect(describeConfig(tree)).toBe(
    [
      "| variable | default | what it does |",
      "| --- | --- | --- |",
      "| `X_URL` | required | Where. |",
      "| `X_PORT` | `0` | Which port. |",
      "| `X_LOUD` | `false` | How loud. |",
      "| `X_POOLS` | `[]` | Which pools. |",
      "",
    ].join("\n"),
  );
});
