import { expect, test } from "vitest";
import { fetchText } from "./fetch-view.ts";
import { Pace } from "./pace.ts";

const MIB = 2 ** 20;

test("bytes, and rate and time left once they are known", () => {
  const pace = new Pace();
  pace.observe(0, 0);
  expect(fetchText(0, 100 * MIB, pace)).toBe("0 bytes of 100.0 MiB");
  pace.observe(20 * MIB, 2000);
  expect(fetchText(20 * MIB, 100 * MIB, pace)).toBe(
    "20.0 MiB of 100.0 MiB, 10.0 MiB/s, 8.0 s left",
  );
  pace.observe(100 * MIB, 10_000);
  expect(fetchText(100 * MIB, 100 * MIB, pace)).toBe("100.0 MiB of 100.0 MiB, 10.0 MiB/s");
});
