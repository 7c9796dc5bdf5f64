/** Memory of a model in int8 once it is loaded, and how long its files take to make and to check. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { prepareQuantised } from "@fluxline/gpu-node/adapters/quantisation/quantised-cache.ts";
import { elementCount } from "@fluxline/gpu-node/core/tensor.ts";
import { describeModel } from "@fluxline/gpu-node/models/families.ts";
import { ImageBench } from "../support/image-bench.ts";
import { anonymousBytesOf, childOf } from "./process-memory.ts";
import type { Measurement } from "./measurement.ts";

const SAMPLE_MS = 5;

interface Loaded {
  readonly peak: number;
  readonly after: number;
  readonly weights: number;
}

/** Loads a model in a runner, and reads its anonymous memory meanwhile and after. */
async function load(folder: string, quantisedFolder?: string): Promise<Loaded> {
  let [peak, pid] = [0, 0];
  const timer = setInterval(() => {
    pid ||= childOf(process.pid);
    if (pid > 0) peak = Math.max(peak, anonymousBytesOf(pid));
  }, SAMPLE_MS);
  const options = quantisedFolder === undefined ? {} : { quantisedFolder };
  const bench = await ImageBench.open(folder, options);
  clearInterval(timer);
  const graphs = [...bench.model.graphs.values()];
  const weights = graphs.reduce((sum, { weightBytes }) => sum + weightBytes, 0);
  const after = anonymousBytesOf(bench.runnerPid);
  await bench.close();
  return { peak, after, weights };
}

export async function quantisedMemory(folder: string, cache: string): Promise<Measurement[]> {
  await load(folder, cache); // the files are made before anything is measured
  const exact = await load(folder);
  const int8 = await load(folder, cache);
  const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  const note = `${mebibytes(int8.weights)} of weights; float32 ${mebibytes(exact.weights)}`;
  const anonymous = `runner's anonymous memory, sampled; float32 ${mebibytes(exact.after)}`;
  const ratio = (name: string, value: number, how: string): Measurement => {
    return { name, value, unit: "ratio", note: how };
  };
  return [
    ratio("int8 weights over float32's", int8.weights / exact.weights, note),
    ratio("int8 loaded, over float32 loaded", int8.after / exact.after, anonymous),
    ratio("int8 loaded, over its weights", int8.after / int8.weights, note),
    ratio("int8 peak while loading, over its weights", int8.peak / int8.weights, anonymous),
    ratio("float32 loaded, over its weights", exact.after / exact.weights, anonymous),
  ];
}

export async function quantisedMaking(folder: string, cache: string): Promise<Measurement[]> {
  const quantisedFolder = join(cache, "made");
  const model = describeModel(await openCheckpoint(folder), {
    runType: "float32",
    quantisedFolder,
  });
  const files = [...model.graphs.values()].flatMap(({ quantised }) => quantised);
  const parameters = files
    .flatMap(({ tensors }) => tensors)
    .reduce((sum, { source }) => sum + elementCount(source.shape), 0);
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const prepare = async (threads: number): Promise<{ wall: number; cpu: number }> => {
    const [begun, usage] = [performance.now(), process.cpuUsage()];
    await prepareQuantised(files, { threads, log: () => undefined });
    const { user, system } = process.cpuUsage(usage);
    return { wall: (performance.now() - begun) / 1000, cpu: (user + system) / 1e6 };
  };
  const found: Measurement[] = [];
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  const stored = `${(parameters / 1e6).toFixed(0)} million, stored as bfloat16`;
  for (const threads of [1, 2]) {
    rmSync(quantisedFolder, { recursive: true, force: true });
    const add = async (name: string, work: number, unit: string): Promise<void> => {
      const { wall, cpu } = await prepare(threads);
      const note = `${stored}, ${threads} threads; by the clock ${(work / wall).toFixed(2)} a second`;
      found.push({ name, value: work / cpu, unit: `${unit}/CPU s`, note });
    };
    await add("making int8 weights", parameters / 1e6, "M");
    await add("checking int8 weights", bytes / 1e9, "GB");
  }
  delay.disable();
  const late = delay.percentile(99) / 1e6;
  const note = "of the process that waits for the worker threads";
  found.push({ name: "event loop delay meanwhile, p99", value: late, unit: "ms", note });
  return found;
}
