/** Plans for the geometry of FLUX.1-dev: in which order things are given up, and how long it takes. */
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { openGeometry } from "../adapters/checkpoint-folder.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import { parseDevices } from "../core/device-offer.ts";
import { changed, smallestChanges } from "./plan-change.ts";
import { hostMemory, planPool, type PoolPlanRequest } from "./pool-plan.ts";

const folder = fileURLToPath(
  new URL("../../../../docs/examples/flux1-dev-geometry", import.meta.url),
);
let model: Checkpoint;
beforeAll(async () => {
  model = await openGeometry(folder);
});

const request = (devices: string, changes: Partial<PoolPlanRequest> = {}): PoolPlanRequest => ({
  precision: "float16",
  provider: "cuda",
  devices: parseDevices(devices, "cuda").devices,
  width: 1024,
  height: 1024,
  rows: 1,
  linkBytesPerSecond: 1.25e9,
  order: "any",
  ...changes,
});

function placement(devices: string, changes: Partial<PoolPlanRequest> = {}) {
  const { result } = planPool(model, request(devices, changes));
  return { fits: result.fits, ...result.placement };
}

describe("with less and less memory", () => {
  test("all is resident and pictures are decoded whole while that fits", () => {
    const { decodeTile, host, stages } = placement("1x42GiB");
    expect({ decodeTile, onHost: host.components }).toEqual({ decodeTile: 0, onHost: [] });
    expect(stages[0]!.components.map(({ mode }) => mode)).toEqual(Array(3).fill("resident"));
  });

  test("then pictures are decoded in tiles, though that takes longer", () => {
    const { fits, decodeTile, host } = placement("1x37.5GiB");
    expect({ fits, decodeTile, onHost: host.components }).toEqual({
      fits: true,
      decodeTile: 512,
      onHost: [],
    });
  });

  test("then what the processor can compute goes there", () => {
    const { fits, host } = placement("1x26.5GiB");
    expect(fits).toBe(true);
    // Decoding is more work than encoding, and still fits in tiles.
    expect(host.components).toEqual(["t5"]);
    expect(placement("1x24.8GiB").host.components).toEqual(["clip", "t5"]);
    expect(placement("1x24.4GiB").host.components).toEqual(["clip", "t5", "vae"]);
    // It computes in float32 there, whatever the devices do.
    const brief = { precision: "bfloat16", rows: 1 } as const;
    expect(placement("1x24.8GiB", brief).host.components).toEqual(["clip", "t5"]);
  });

  test("what stands on the processor is counted in its memory", () => {
    const asked = request("1x24GiB");
    const [bound] = hostMemory(model, asked, planPool(model, asked), 64 * 2 ** 30);
    // T5 without its table, in float32.
    expect(bound!.fixedBytes).toBeGreaterThan(4 * 4.6e9);
    expect(bound!.availableBytes).toBe(64 * 2 ** 30);
  });
});

test.each(["57x24GiB", "32x24GiB,25x16GiB"])("%s are planned in a moment", (devices) => {
  const begun = performance.now();
  expect(placement(devices).fits).toBe(true);
  // Tenths of a second; this machine may be busy.
  expect(performance.now() - begun).toBeLessThan(10_000);
});

test("58 devices are more than there are blocks", () => {
  expect(() => placement("58x24GiB")).toThrow(/has 58 devices.*57 blocks.*use 1 to 57/);
});

describe("what would make it fit", () => {
  test.each([
    ["1x24GiB", { precision: "bfloat16" as const, rows: 4 }],
    ["2x12GiB", { precision: "bfloat16" as const, rows: 8 }],
    ["1x12GiB", { precision: "bfloat16" as const, rows: 4 }],
    ["3x10GiB,1x12GiB", { precision: "float32" as const, rows: 2 }],
  ])("%s: every change that is named does, and is the smallest of its kind", (devices, more) => {
    const asked = request(devices, more);
    const { result } = planPool(model, asked);
    const shortfall = result.fits ? 0 : result.shortfallBytes;
    expect(shortfall).toBeGreaterThan(0);
    const changes = smallestChanges(model, asked, shortfall);
    expect(changes.length).toBeGreaterThan(0);
    for (const change of changes) {
      expect(planPool(model, changed(asked, change)).result.fits, JSON.stringify(change)).toBe(
        true,
      );
      if (change.moreMemoryBytes === undefined) continue;
      const less = { moreMemoryBytes: change.moreMemoryBytes - 2 ** 30 / 5 };
      expect(planPool(model, changed(asked, less)).result.fits).toBe(false);
    }
  });
});
