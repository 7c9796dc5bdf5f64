/** What the ranks of a group make of `--devices`, each by itself. */
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import type { Checkpoint } from "../core/checkpoint.ts";
import { openCheckpoint } from "./checkpoint-folder.ts";
import { parseGroupOptions } from "./group-options.ts";
import { rankFacts } from "./stage-facts.ts";
import { parseStageOptions } from "./stage-options.ts";

const folder = fileURLToPath(new URL("../../../../models/flux-tiny", import.meta.url));
const ADDRESSES = "unix:/run/1.sock,unix:/run/2.sock";
const DEVICES = ["--devices", "2x1GiB,1x0.5GiB", "--max-size", "256x256", "--max-batch", "2"];
const CORES = 2;
let tiny: Checkpoint;
beforeAll(async () => {
  tiny = await openCheckpoint(folder);
});

const driver = (...options: string[]) =>
  rankFacts(tiny, parseGroupOptions(["--model", folder, ...options], CORES), {});
const stage = (rank: number, ...options: string[]) => {
  const place = ["--rank", String(rank), "--listen", `unix:/run/${rank}.sock`];
  return rankFacts(tiny, parseStageOptions(["--model", folder, ...place, ...options], CORES), {});
};
const group = [...DEVICES, "--stage-addresses", ADDRESSES];

test("every rank comes to the same plan", () => {
  const wanted = driver(...group).identity(0, "a").planDigest;
  expect(wanted).toContain("stages=3");
  expect([1, 2].map((rank) => stage(rank, ...DEVICES).identity(rank, "a").planDigest)).toEqual([
    wanted,
    wanted,
  ]);
});

describe("what the command line settles stands", () => {
  const options = ["--cuts", "1,2", "--place", "t5=2,vae=0", "--sequential", "t5"];
  const plan = () => driver(...group, ...options, "--decode-tile", "128").plan;

  test("cuts, places, what is sequential, and tiles", () => {
    const { stages, places, sequential, decodeTile } = plan();
    expect(stages.map(({ first }) => first)).toEqual([0, 1, 2]);
    expect(places.get("t5")).toBe(2);
    expect(places.get("vae")).toBe(0);
    expect([...sequential]).toEqual(["t5"]);
    expect(decodeTile).toBe(128);
  });

  test("and is judged by the model", () => {
    expect(() => driver(...group, "--cuts", "1,99")).toThrow(/--cuts: is 1,99/);
    expect(() => driver(...group, "--place", "t6=0")).toThrow(/--place: names t6/);
  });
});

describe("memory of each rank", () => {
  test("is that of its device, in order", () => {
    const available = driver(...group).memory.map(({ availableBytes }) => availableBytes);
    expect(available).toEqual([2 ** 30, 2 ** 30, 2 ** 29]);
  });

  test("is this machine's on the CPU provider, where no devices are told", () => {
    const { memory } = driver("--stages", "3", "--stage-addresses", ADDRESSES);
    expect(memory.map(({ device }) => device)).toEqual(["rank 0", "rank 1", "rank 2"]);
    expect(new Set(memory.map(({ availableBytes }) => availableBytes)).size).toBe(1);
  });

  test("has that of the runner beside rank 0, if something is placed there", () => {
    const { memory } = driver("--place", "t5=cpu,vae=cpu");
    expect(memory.map(({ device }) => device)).toEqual(["rank 0", "cpu"]);
    expect(memory[0]!.decodeBytesPerPixel).toBe(0);
    expect(memory[1]!.decodeBytesPerPixel).toBeGreaterThan(0);
  });

  test("is not known of other providers", () => {
    expect(driver("--provider", "cuda", "--device-class", "l4").memory).toEqual([]);
  });
});

test("devices that cannot hold the model are refused with what is missing", () => {
  expect(() => driver("--devices", "1x0.05GiB")).toThrow(
    expect.objectContaining({
      reason: "PLAN_DOES_NOT_FIT",
      message: expect.stringMatching(
        /--devices 1x0.05GiB does not hold 1024x1024.*GiB are missing/,
      ),
    }),
  );
});
