/**
 * Loading a checkpoint: anonymous memory over the size of its weights as they run, and time over
 * that of reading the same files once from end to end, both sides taking turns; with the files in the
 * page cache, and after they were dropped from it.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, openSync, readSync } from "node:fs";
import type { ImageModel } from "@fluxline/gpu-node/core/image-model.ts";
import { ImageBench } from "../support/image-bench.ts";
import { median, type Measurement, rangeText } from "./measurement.ts";
import { anonymousBytesOf, childOf } from "./process-memory.ts";
import { cpuSecondsOf } from "./process-tree.ts";

const SAMPLE_MS = 5;
const TURNS = 3;
const READ_BYTES = 4 * 1024 * 1024;

interface Loaded {
  readonly model: ImageModel;
  readonly seconds: number;
  /** Processor time of the runner. */
  readonly cpuSeconds: number;
  /** Anonymous memory of the runner: the most, and once it has loaded. */
  readonly peak: number;
  readonly settled: number;
  /** Growth of the driver. */
  readonly driver: number;
}

export async function loading(folder: string, stored: string): Promise<Measurement[]> {
  const turns: { readonly read: number; readonly loaded: Loaded }[] = [];
  const first = await load(folder);
  const files = weightFiles(first.model);
  for (let turn = 0; turn < TURNS; turn++) {
    turns.push({ read: readSeconds(files), loaded: await load(folder) });
  }
  const { model, driver } = first;
  const weights = [...model.graphs.values()].reduce((sum, { weightBytes }) => sum + weightBytes, 0);
  const peak = Math.max(first.peak, ...turns.map(({ loaded }) => loaded.peak));
  const ratios = turns.map(({ read, loaded }) => loaded.seconds / read);
  const reads = turns.map(({ read }) => read);
  const name = `loading ${(weights / 2 ** 30).toFixed(2)} GiB, ${stored}`;
  const note = "runner's anonymous memory, sampled, over the weights as float32";
  const aim = { atMost: 1.1 };
  return [
    {
      name: `${name}: warm`,
      value: median(turns.map(({ loaded }) => loaded.seconds)),
      unit: "s",
      note: `folder to graphs ready; reading the files ${rangeText(reads)} s`,
    },
    {
      name: `${name}: warm over reading`,
      value: median(ratios),
      unit: "ratio",
      aim: { atMost: 2 },
      note: `${TURNS} turns, ${rangeText(ratios)}`,
    },
    {
      name: `${name}: processor time`,
      value: median(turns.map(({ loaded }) => loaded.cpuSeconds)),
      unit: "s",
      note: "of the runner, from its start",
    },
    ...(await coldLoading(name, folder, files)),
    { name: `${name}: peak`, value: peak / weights, unit: "ratio", aim, note },
    { name: `${name}: after`, value: first.settled / weights, unit: "ratio", aim, note },
    { name: `${name}: driver`, value: driver / 2 ** 20, unit: "MiB", note: "growth of the driver" },
  ];
}

/** The files are dropped from the page cache before each side. */
async function coldLoading(
  name: string,
  folder: string,
  files: readonly string[],
): Promise<Measurement[]> {
  if (spawnSync("dd", ["--version"]).error !== undefined) {
    console.error("no dd here: loading from a cold page cache is left out");
    return [];
  }
  const turns: { readonly read: number; readonly seconds: number }[] = [];
  for (let turn = 0; turn < TURNS; turn++) {
    dropFromCache(files);
    const read = readSeconds(files);
    dropFromCache(files);
    turns.push({ read, seconds: (await load(folder)).seconds });
  }
  const ratios = turns.map(({ read, seconds }) => seconds / read);
  return [
    {
      name: `${name}: cold`,
      value: median(turns.map(({ seconds }) => seconds)),
      unit: "s",
      note: `reading the files ${rangeText(turns.map(({ read }) => read))} s`,
    },
    {
      name: `${name}: cold over reading`,
      value: median(ratios),
      unit: "ratio",
      aim: { atMost: 2 },
      note: `${TURNS} turns, ${rangeText(ratios)}`,
    },
  ];
}

async function load(folder: string): Promise<Loaded> {
  const bare = anonymousBytesOf(process.pid);
  let peak = 0;
  let runnerPid = 0;
  const timer = setInterval(() => {
    runnerPid ||= childOf(process.pid);
    if (runnerPid > 0) peak = Math.max(peak, anonymousBytesOf(runnerPid));
  }, SAMPLE_MS);
  const begun = performance.now();
  const bench = await ImageBench.open(folder);
  const seconds = (performance.now() - begun) / 1000;
  clearInterval(timer);
  const settled = anonymousBytesOf(bench.runnerPid);
  const cpuSeconds = cpuSecondsOf(bench.runnerPid) ?? Number.NaN;
  const driver = anonymousBytesOf(process.pid) - bare;
  await bench.close();
  return { model: bench.model, seconds, cpuSeconds, peak, settled, driver };
}

function weightFiles({ graphs }: ImageModel): string[] {
  const ranges = [...graphs.values()].flatMap(({ weights }) => weights);
  return [...new Set(ranges.map(({ file }) => file))];
}

function readSeconds(files: readonly string[]): number {
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  const begun = performance.now();
  for (const file of files) {
    const descriptor = openSync(file, "r");
    while (readSync(descriptor, buffer) > 0);
    closeSync(descriptor);
  }
  return (performance.now() - begun) / 1000;
}

/** `nocache` without a count tells the kernel that the whole file is not needed any more. */
function dropFromCache(files: readonly string[]): void {
  for (const file of files) {
    execFileSync("dd", [`if=${file}`, "iflag=nocache", "count=0", "status=none"]);
  }
}
