/** Time and anonymous memory of loading a checkpoint, over the size of its weights as they run. */
import { readFileSync } from "node:fs";
import { ImageBench } from "../support/image-bench.ts";
import { anonymousBytesOf } from "./anonymous-memory.ts";
import type { Measurement } from "./measurement.ts";

const SAMPLE_MS = 5;

export async function loading(folder: string, stored: string): Promise<Measurement[]> {
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
  const weights = [...bench.model.graphs.values()].reduce((sum, { weightBytes }) => {
    return sum + weightBytes;
  }, 0);
  const settled = anonymousBytesOf(bench.runnerPid);
  const driver = anonymousBytesOf(process.pid) - bare;
  await bench.close();
  const name = `loading ${(weights / 2 ** 30).toFixed(2)} GiB, ${stored}`;
  const note = "runner's anonymous memory, sampled, over the weights as float32";
  return [
    { name: `${name}: time`, value: seconds, unit: "s", note: "folder to graphs ready" },
    { name: `${name}: peak`, value: peak / weights, unit: "ratio", aim: { atMost: 1.1 }, note },
    { name: `${name}: after`, value: settled / weights, unit: "ratio", aim: { atMost: 1.1 }, note },
    { name: `${name}: driver`, value: driver / 2 ** 20, unit: "MiB", note: "growth of the driver" },
  ];
}

function childOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
  const runner = children.find((child) => {
    try {
      return readFileSync(`/proc/${child}/comm`, "utf8").startsWith("fluxline");
    } catch {
      return false;
    }
  });
  return Number(runner ?? 0);
}
