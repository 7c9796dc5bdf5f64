/**
 * Every process that a command has started, however deep and whatever became of its parents: all of
 * them inherit a mark in their environment. Linux only, as are the tests that use it.
 */
import { readdirSync, readFileSync } from "node:fs";

const markName = "FLUXLINE_TEST_MARK";

export interface MarkedProcess {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
}

export function markedEnvironment(mark: string): Record<string, string> {
  return { [markName]: mark };
}

/** Living processes with this mark; those that have ended and wait to be collected are not. */
export function markedProcesses(mark: string): MarkedProcess[] {
  const wanted = `${markName}=${mark}`;
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const environment = readFileSync(`/proc/${name}/environ`, "utf8").split("\0");
        if (!environment.includes(wanted)) return [];
        const stat = readFileSync(`/proc/${name}/stat`, "utf8");
        const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        if (state === "Z") return [];
        const command = readFileSync(`/proc/${name}/cmdline`, "utf8").replaceAll("\0", " ");
        return [{ pid: Number(name), parent: Number(parent), command: command.trim() }];
      } catch {
        // It ended while we looked, or belongs to somebody else.
        return [];
      }
    });
}
