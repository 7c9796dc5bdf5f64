import { expect, test } from "vitest";
import { progressText } from "./progress-text.ts";

test.each([
  [{ what: "making weights in int8", done: 3, total: 57, unit: "files" } as const],
  [{ what: "fetching weights", done: 1.5 * 2 ** 30, total: 9 * 2 ** 30, unit: "bytes" } as const],
])("%j is one line", (progress) => {
  expect(progressText({ child: "gpu-node g0 driver", ...progress })).toBe(
    progress.unit === "files"
      ? "gpu-node g0 driver: making weights in int8, 3 of 57 files"
      : "gpu-node g0 driver: fetching weights, 1.5 GiB of 9.0 GiB",
  );
});
