/**
 * Three ranks of a group fetch a model of a hub, each a process: together, from a cache that they
 * share, every byte once, however often they are killed; from caches of their own, their bytes only.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { digestRanges } from "@fluxline/gpu-node/adapters/checkpoint-digest.ts";
import { FETCH_LIMITS } from "@fluxline/gpu-node/adapters/hub/hub-settings.ts";
import {
  byteCount,
  type ByteRanges,
  byteSet,
  covers,
  difference,
  union,
} from "@fluxline/gpu-node/core/hub/byte-ranges.ts";
import { componentsAt, planStages } from "@fluxline/gpu-node/core/stage-plan.ts";
import { modelGraphs, modelLayout } from "@fluxline/gpu-node/models/families.ts";
import { randomCheckpoint } from "../bench/random-checkpoint.ts";
import { type FetchProcess, startFetch } from "../support/fetch-process.ts";
import { HubServer, type Repository } from "../support/hub-server.ts";
import { until } from "../support/until.ts";

const name = "org/random";
const TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors";
const MIB = 2 ** 20;
const STAGES = 3;
/** 138 MB: above what the digest reads whole. */
const SIZE = { heads: 16, headWidth: 32, doubleBlocks: 2, singleBlocks: 4 };

let hub: HubServer;
let repository: Repository;
let folder = "";
let model = "";
let home = "";
const started: FetchProcess[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "fluxline-hub-"));
  model = randomCheckpoint(folder, SIZE);
  hub = await HubServer.start();
  repository = await hub.serve(name, model);
});
afterAll(async () => {
  await hub.close();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "fluxline-cache-"));
  hub.bytesPerSecond = Number.POSITIVE_INFINITY;
  hub.forget();
});
afterEach(async () => {
  for (const one of started.splice(0)) await one.kill();
  rmSync(home, { recursive: true, force: true });
});

function fetchRank(rank: number, cache = "shared"): FetchProcess {
  const args = ["pull", "--model", name, "--stages", String(STAGES), "--rank", String(rank)];
  const cacheFolder = join(home, cache);
  const one = startFetch(args, {
    HF_ENDPOINT: hub.endpoint,
    FLUXLINE_CACHE: cacheFolder,
    HF_HOME: join(home, "hf"),
  });
  started.push(one);
  return one;
}

const ranks = [0, 1, 2];

/** What the graphs of a rank read, by file. */
async function neededBy(rank: number): Promise<Map<string, ByteRanges>> {
  const checkpoint = await openCheckpoint(model);
  const layout = modelLayout(checkpoint);
  const plan = planStages(layout, { stages: STAGES });
  const components = componentsAt(layout, plan, rank).map((one) => one.name);
  const selection = { stage: plan.stages[rank], components };
  const graphs = modelGraphs(checkpoint, { runType: "float32" }, selection);
  const byFile = Map.groupBy(
    graphs.flatMap(({ weights }) => weights),
    ({ file }) => relative(model, file),
  );
  return new Map(
    [...byFile].map(([file, list]) => [
      file,
      byteSet(list.map(({ offset, length }) => [offset, offset + length])),
    ]),
  );
}

/** The bytes of those ranges, as a digest. */
function digestOf(file: string, ranges: ByteRanges): string {
  const hash = createHash("sha256");
  const descriptor = openSync(file, "r");
  for (const [begin, end] of ranges) {
    const bytes = Buffer.alloc(end - begin);
    readSync(descriptor, bytes, 0, bytes.length, begin);
    hash.update(bytes);
  }
  closeSync(descriptor);
  return hash.digest("hex");
}

function cached(cache: string, path: string): string {
  return join(home, cache, "hub/org--random", repository.commit, "random", path);
}

function stateFile(kind: string, ending: string): string {
  const state = join(home, "shared/hub/org--random", repository.commit, "state");
  return join(state, kind, `${encodeURIComponent(TRANSFORMER)}.${ending}`);
}

const lockFile = (): string => stateFile("locks", "lock");

async function expectRanges(rank: number, cache: string): Promise<void> {
  for (const [path, ranges] of await neededBy(rank)) {
    const [ours, theirs] = [cached(cache, path), join(model, path)];
    expect(digestOf(ours, ranges), `${path} of rank ${rank}`).toBe(digestOf(theirs, ranges));
  }
}

async function expectAll(fetches: readonly FetchProcess[]): Promise<void> {
  for (const { ended } of fetches) {
    const { code, answer } = await ended;
    expect(code, JSON.stringify(answer)).toBe(0);
    expect(answer["model"]).toBe(`${name}@${repository.commit}`);
  }
}

describe("three processes with one cache", () => {
  test("fetch every byte once, and have what they need", async () => {
    const fetches = ranks.map((rank) => fetchRank(rank));
    await expectAll(fetches);
    expect(hub.bytesAgain()).toBe(0);
    for (const rank of ranks) await expectRanges(rank, "shared");
    const needs = await Promise.all(ranks.map(neededBy));
    const needed = union(...needs.map((need) => need.get(TRANSFORMER) ?? []));
    expect(covers(hub.bytesOnce(TRANSFORMER), needed)).toBe(true);
  });

  test("killed twice, all of them, they go on from where they were", async () => {
    hub.bytesPerSecond = 12 * MIB;
    for (const bytes of [30 * MIB, 80 * MIB]) {
      const fetches = ranks.map((rank) => fetchRank(rank));
      await until(() => hub.bytesServed() > bytes, 60_000);
      await Promise.all(fetches.map((one) => one.kill()));
    }
    hub.bytesPerSecond = Number.POSITIVE_INFINITY;
    await expectAll(ranks.map((rank) => fetchRank(rank)));
    for (const rank of ranks) await expectRanges(rank, "shared");
    // What had come and was not yet durable comes again: a bounded piece of each connection.
    const { connections, syncBytes } = FETCH_LIMITS;
    const atRisk = connections * (syncBytes + MIB);
    expect(hub.bytesAgain()).toBeLessThanOrEqual(2 * ranks.length * atRisk);
    expect(hub.bytesServed()).toBeLessThan(200 * MIB);
  });

  test("one that is killed holds the others up for a moment only", async () => {
    hub.bytesPerSecond = 8 * MIB;
    const first = fetchRank(0);
    await until(() => hub.bytesServed() > 24 * MIB, 60_000);
    await first.kill();
    expect(existsSync(lockFile()), "it left its lock behind").toBe(true);
    hub.bytesPerSecond = Number.POSITIVE_INFINITY;
    const begunMs = performance.now();
    await expectAll([fetchRank(0)]);
    const { lockStaleMs } = FETCH_LIMITS;
    expect(performance.now() - begunMs).toBeLessThan(lockStaleMs + 10_000);
  });
});

test("one that was frozen and taken for dead starts over, and nothing wrong is kept", async () => {
  hub.bytesPerSecond = 4 * MIB;
  const frozen = fetchRank(0);
  await until(() => hub.bytesServed() > 20 * MIB, 60_000);
  frozen.child.kill("SIGSTOP");
  hub.bytesPerSecond = Number.POSITIVE_INFINITY;
  await expectAll([fetchRank(0), fetchRank(1)]);
  frozen.child.kill("SIGCONT");
  await expectAll([frozen]);
  for (const rank of [0, 1]) await expectRanges(rank, "shared");
});

test("of a slow connection a kill costs a moment's bytes", async () => {
  hub.bytesPerSecond = MIB;
  const first = fetchRank(0);
  await until(() => hub.bytesServed() > 14 * MIB, 60_000);
  await first.kill();
  hub.bytesPerSecond = Number.POSITIVE_INFINITY;
  await expectAll([fetchRank(0)]);
  const { connections, syncMs } = FETCH_LIMITS;
  // Twice, for the bytes that were on their way or being synced.
  expect(hub.bytesAgain()).toBeLessThan((2 * connections * MIB * syncMs) / 1000);
});

describe("three processes with caches of their own", () => {
  test("fetch their bytes only: graphs, headers, samples of the digest, and small gaps", async () => {
    const { size } = repository.files.find(({ path }) => path === TRANSFORMER)!;
    const samples = byteSet(digestRanges(size).map(([at, length]) => [at, at + length]));
    let all = 0;
    for (const rank of ranks) {
      hub.forget();
      await expectAll([fetchRank(rank, `own-${rank}`)]);
      await expectRanges(rank, `own-${rank}`);
      const needed = union((await neededBy(rank)).get(TRANSFORMER) ?? [], samples);
      const beside = difference(hub.bytesOnce(TRANSFORMER), needed);
      for (const [begin, end] of beside) {
        expect(end - begin).toBeLessThanOrEqual(FETCH_LIMITS.gapBytes);
      }
      expect(hub.bytesAgain()).toBe(0);
      all += byteCount(hub.bytesOnce(TRANSFORMER));
    }
    expect(all).toBeLessThan(size + 3 * byteCount(samples) + 4 * MIB);
  });
});

test("inspect fetches small files, headers and samples, no weights", async () => {
  const { size } = repository.files.find(({ path }) => path === TRANSFORMER)!;
  const samples = byteSet(digestRanges(size).map(([at, length]) => [at, at + length]));
  const environment = { HF_ENDPOINT: hub.endpoint, FLUXLINE_CACHE: home, HF_HOME: home };
  const one = startFetch(["inspect", name], environment);
  started.push(one);
  const { code, answer } = await one.ended;
  expect(code).toBe(0);
  expect(answer["digest"]).toBe((await openCheckpoint(model)).digest);
  expect(hub.bytesOnce(TRANSFORMER)).toEqual(samples);
});

test("a signal ends it in order: the lock is gone, and what came is kept", async () => {
  hub.bytesPerSecond = 8 * MIB;
  const one = fetchRank(0);
  await until(() => hub.bytesServed() > 24 * MIB, 60_000);
  one.child.kill("SIGTERM");
  const { code, answer } = await one.ended;
  expect(code).toBe(1);
  expect(JSON.stringify(answer)).toContain("INTERRUPTED");
  expect(existsSync(lockFile())).toBe(false);
  const manifest = JSON.parse(readFileSync(stateFile("weights", "json"), "utf8"));
  // What was still on its way is not there.
  const onTheWay = difference(hub.bytesOnce(TRANSFORMER), manifest.ranges);
  expect(byteCount(onTheWay)).toBeLessThan(4 * MIB);
});
