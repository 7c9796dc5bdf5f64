import { describe, expect, test } from "vitest";
import { linkLimits } from "./link-limits.ts";

describe("limits of a link", () => {
  test("leave room for two of the largest frames by default", () => {
    const { windowBytes, headerBytesMax, payloadBytesMax } = linkLimits({ payloadBytesMax: 1000 });
    expect(payloadBytesMax).toBe(1000);
    expect(windowBytes).toBe(2 * (headerBytesMax + 1000));
  });

  test("that could never work are refused, each by name", () => {
    const wrong = { windowFrames: 0, windowBytes: 10, heartbeatMs: 3000, silenceMsMax: 4000 };
    expect(() => linkLimits(wrong)).toThrow(
      expect.objectContaining({
        reason: "INVALID_LINK_LIMITS",
        violations: [
          { field: "windowFrames", description: expect.any(String) },
          { field: "windowBytes", description: expect.any(String) },
          { field: "silenceMsMax", description: expect.any(String) },
        ],
      }),
    );
  });
});
