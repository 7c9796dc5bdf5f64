/** What a process holds that is no page of a file. */
import { readFileSync } from "node:fs";

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
