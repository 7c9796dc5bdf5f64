/** Anonymous memory of a process: what is its own, without the pages of files that it has mapped. */
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

/** The most that the process held while the work was done, sampled. */
export async function peakDuring(pid: number, work: () => Promise<unknown>): Promise<number> {
  let peak = anonymousBytesOf(pid);
  const timer = setInterval(() => {
    peak = Math.max(peak, anonymousBytesOf(pid));
  }, SAMPLE_MS);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
  return Math.max(peak, anonymousBytesOf(pid));
}
