/** What a process holds that is no page of a file. */
import { readFileSync } from "node:fs";

const SAMPLE_MS = 5;

export function anonymousBytesOf(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(/RssAnon:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return 0; // it has just ended
  }
}

/** The first child that calls itself one of ours, or 0. */
export function childOf(pid: number): number {
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

/** The most that each process held while the work was done, sampled. */
export async function peaksDuring(
  pids: readonly number[],
  work: () => Promise<unknown>,
): Promise<number[]> {
  let peaks = pids.map(anonymousBytesOf);
  const sample = (): void => {
    peaks = peaks.map((peak, index) => Math.max(peak, anonymousBytesOf(pids[index]!)));
  };
  const timer = setInterval(sample, SAMPLE_MS);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
  sample();
  return peaks;
}
