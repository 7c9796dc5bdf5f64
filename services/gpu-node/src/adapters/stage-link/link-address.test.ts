import { describe, expect, test } from "vitest";
import { isLocal, linkAddressText, parseLinkAddress } from "./link-address.ts";

describe("a stage address", () => {
  test.each([
    ["unix:/run/stage-1.sock", { kind: "unix", path: "/run/stage-1.sock" }, true],
    ["tcp://g0-1.stages:7400", { kind: "tcp", host: "g0-1.stages", port: 7400 }, false],
    ["tcp://127.0.0.1:0", { kind: "tcp", host: "127.0.0.1", port: 0 }, true],
    ["tcp://localhost:7400", { kind: "tcp", host: "localhost", port: 7400 }, true],
    ["tcp://127.evil.example:1", { kind: "tcp", host: "127.evil.example", port: 1 }, false],
    ["tcp://[::1]:7400", { kind: "tcp", host: "::1", port: 7400 }, true],
    ["tcp://[fd00::2]:7400", { kind: "tcp", host: "fd00::2", port: 7400 }, false],
  ] as const)("%s is read and written back", (text, address, local) => {
    expect(parseLinkAddress(text, "--listen")).toEqual(address);
    expect(linkAddressText(address)).toBe(text);
    expect(isLocal(address)).toBe(local);
  });

  test.each([
    "",
    "stage-1:7400",
    "tcp://stage-1",
    "tcp://:7400",
    "tcp://stage-1:70000",
    "tcp://[stage]:7400",
    "tcp://::1:7400",
    "http://stage-1:80",
    "unix:stage.sock",
    `unix:/${"x".repeat(200)}`,
  ])("%s is refused by field, with a way out", (text) => {
    let error: unknown;
    try {
      parseLinkAddress(text, "--listen");
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({
      reason: "INVALID_ADDRESS",
      violations: [{ field: "--listen", description: expect.stringMatching(/use|give|at most/) }],
    });
  });
});
