/**
 * Stages that are processes of their own, driven from here: killed, frozen, and of another mind.
 * Whatever happens to them, the pictures are those of one stage, byte for byte.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import type { DevicesState } from "@fluxline/gpu-node/core/driver.ts";
import type { Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { TestAuthority } from "../support/certificates.ts";
import { type BenchOptions, finishedImages, ImageBench } from "../support/image-bench.ts";
import { StageProcesses } from "../support/stage-processes.ts";

const model = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));

/** Three micro-batches: two sizes, and one that shares no batch with its like. */
const REQUESTS: readonly RequestedImage[] = [
  { prompt: "a red circle", steps: 12, seed: 42n },
  { prompt: "a green triangle", steps: 8, seed: 7n, width: 96, height: 64 },
  { prompt: "", steps: 10, seed: 9n, negativePrompt: "a square", trueCfgScale: 2 },
];

let bench: ImageBench | undefined;
let processes: StageProcesses | undefined;
let whole: readonly (readonly Pixels[])[];

async function pictures(): Promise<readonly (readonly Pixels[])[]> {
  const jobs = REQUESTS.map((request) => bench!.begin(request));
  const ends = await Promise.all(jobs.map(({ end }) => end));
  return ends.map(finishedImages);
}

/** `shared`: options of every rank, with those of the driver where they differ. */
async function open(
  stages: number,
  shared: readonly string[] = [],
  { tcp, ...options }: BenchOptions & { tcp?: boolean } = {},
  driver: readonly string[] = shared,
): Promise<void> {
  processes = await StageProcesses.start(model, { stages, options: shared, driver, tcp });
  bench = await ImageBench.open(model, { stages, ...options, processes });
}

async function close(): Promise<void> {
  await bench?.close();
  await processes?.close();
  [bench, processes] = [undefined, undefined];
}

/** Calls `strike` once, in the middle of the first request. */
function once(strike: () => void): NonNullable<BenchOptions["onProgress"]> {
  let struck = false;
  return (id, steps) => {
    if (struck || id !== "job-0" || steps !== 5) return;
    struck = true;
    strike();
  };
}

beforeAll(async () => {
  bench = await ImageBench.open(model);
  whole = await pictures();
  await close();
});

afterEach(close);

describe("the same bytes as of one stage", () => {
  test("over three processes", async () => {
    await open(3);
    expect(await pictures()).toEqual(whole);
    expect(bench!.devices.health()).toMatchObject([0, 1, 2].map((rank) => ({ rank, ready: true })));
  });

  test("with parts that are loaded for each use, at the ranks where they are", async () => {
    const options = ["--sequential", "clip,t5,vae", "--place", "t5=1", "--decode-tile", "128"];
    const sequential = ["clip", "t5", "vae"];
    await open(2, options, { sequential, place: { t5: 1 }, decodeTile: 128 });
    expect(await pictures()).toEqual(whole);
    expect(new Set(bench!.loads)).toEqual(new Set(["text_encoder"]));
    const loads = (graph: string): number =>
      processes!
        .rank(1)
        .log()
        .split("\n")
        .filter((line) => line.includes("graph loaded for its call") && line.includes(graph))
        .length;
    expect(loads("text_encoder_2")).toBeGreaterThan(0);
    expect(loads("vae.decoder")).toBeGreaterThan(0);
    expect(bench!.devices.health()).toMatchObject([0, 1].map((rank) => ({ rank, ready: true })));
  });

  test("over TCP, with the certificates of an authority", async () => {
    const folder = mkdtempSync(join(tmpdir(), "fluxline-certificates-"));
    const authority = await TestAuthority.create(folder, "authority");
    const files = await authority.issue("rank", { name: "ranks.test" });
    const options = ["--link-certificate", files.certificateFile, "--link-key", files.keyFile];
    options.push("--link-authority", files.authorityFile, "--link-peer-names", "ranks.test");
    await open(2, options, { tcp: true });
    expect(await pictures()).toEqual(whole);
    expect(processes!.rank(1).ready["address"]).toMatch(/^tcp:/);
    rmSync(folder, { recursive: true });
  });

  test("with text encoded by rank 1 and pictures decoded by rank 2", async () => {
    await open(3, ["--place", "clip=1,t5=1,vae=2"], { place: { clip: 1, t5: 1, vae: 2 } });
    expect(processes!.rank(1).ready["graphs"]).toEqual([
      "text_encoder",
      "text_encoder_2",
      "transformer.2-3",
    ]);
    expect(await pictures()).toEqual(whole);
  });

  test("when the middle process is killed and another one is started", async () => {
    const states: DevicesState[] = [];
    let restarted: Promise<unknown> | undefined;
    await open(3, [], {
      onDevices: (state) => states.push(state),
      onProgress: once(() => {
        restarted = processes!
          .rank(1)
          .kill()
          .then(() => processes!.startRank(1));
      }),
    });
    expect(await pictures()).toEqual(whole);
    await restarted;
    expect(states).toEqual(["broken", "whole"]);
  });

  test("when the runner of the last process is killed", async () => {
    const states: DevicesState[] = [];
    await open(2, [], {
      onDevices: (state) => states.push(state),
      onProgress: once(() => process.kill(processes!.rank(1).runnerPid(), "SIGKILL")),
    });
    expect(await pictures()).toEqual(whole);
    expect(states).toEqual([]);
    // Said by the stage itself, a second after at the latest.
    await expect.poll(() => bench!.devices.health()[1]!.restarts, { timeout: 5_000 }).toBe(1);
  });

  test("when a process is frozen until its links are given up, and thaws", async () => {
    const states: DevicesState[] = [];
    await open(3, [], {
      onDevices: (state) => {
        states.push(state);
        processes!.rank(2).child.kill("SIGCONT");
      },
      onProgress: once(() => processes!.rank(2).child.kill("SIGSTOP")),
    });
    expect(await pictures()).toEqual(whole);
    expect(states).toEqual(["broken", "whole"]);
  });

  test("for a second driver, when the first one went", async () => {
    await open(2);
    const { runnerPid } = processes!.rank(1);
    const loaded = runnerPid();
    const interrupted = bench!.begin({ prompt: "a red circle", steps: 500 });
    await bench!.close();
    bench = await ImageBench.open(model, { stages: 2, processes: processes! });
    expect(await pictures()).toEqual(whole);
    expect(runnerPid()).toBe(loaded);
    expect(await interrupted.end).toMatchObject({ kind: "failed", blamed: false });
  });
});

describe("ranks that do not belong together refuse one another, and say why", () => {
  test.each<[string, string[], string]>([
    [
      "another plan",
      ["--cuts", "3"],
      "start every rank with the same --stages, --cuts and --place",
    ],
    ["another run type", ["--run-type", "float16"], "numericsClass"],
    ["another group", ["--group", "g9"], "start every rank with the same --group"],
  ])("%s", async (_, there, words) => {
    const opened = open(2, there, { cuts: [2] }, ["--cuts", "2"]);
    await expect(opened).rejects.toMatchObject({ reason: "PEER_MISMATCH" });
    await expect(opened).rejects.toThrow(words);
  });
});

test("jobs are handed back when a process stays away", async () => {
  const states: DevicesState[] = [];
  const options: BenchOptions = {
    onDevices: (state) => states.push(state),
    onProgress: once(() => void processes!.rank(1).kill()),
  };
  await open(2, [], options, ["--stage-away-seconds", "0.2"]);
  const job = bench!.begin(REQUESTS[0]!);
  const end = await job.end;
  expect(end).toMatchObject({ kind: "released", reason: "drained" });
  expect(states).toEqual(["broken", "away"]);
});
