/** CPU time of a process and all of its descendants, from /proc. */
import { readFileSync } from "node:fs";

/** Ticks per second of /proc/PID/stat; 100 on every Linux that we run on. */
const TICKS_PER_SECOND = 100;
const NAME_CHARS_MAX = 60;

export interface TreeCost {
  readonly cpuSeconds: number;
  /** By what the processes call themselves. */
  readonly byName: ReadonlyMap<string, number>;
}

/** CPU time that a process and its descendants spend from the start of a turn to its end. */
export class TreeMeter {
  readonly #pids: readonly number[];
  readonly #before: ReadonlyMap<number, number>;

  /** Processes that come later are not counted: a turn starts none. */
  constructor(pid: number) {
    this.#pids = treeOf(pid);
    this.#before = cpuSecondsByProcess(this.#pids);
  }

  read(): TreeCost {
    const byName = new Map<string, number>();
    let cpuSeconds = 0;
    for (const [pid, after] of cpuSecondsByProcess(this.#pids)) {
      const own = after - (this.#before.get(pid) ?? 0);
      const name = processName(pid).slice(0, NAME_CHARS_MAX);
      byName.set(name, (byName.get(name) ?? 0) + own);
      cpuSeconds += own;
    }
    return { cpuSeconds, byName };
  }
}

export function treeOf(pid: number): number[] {
  return [pid, ...childrenOf(pid).flatMap(treeOf)];
}

/** Seconds of user and system time, by process; processes that have ended are left out. */
export function cpuSecondsByProcess(pids: readonly number[]): Map<number, number> {
  return new Map(
    pids.flatMap((pid) => {
      const seconds = cpuSecondsOf(pid);
      return seconds === undefined ? [] : [[pid, seconds] as const];
    }),
  );
}

/** What the process calls itself. */
export function processName(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
  } catch {
    return "ended";
  }
}

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return text === "" ? [] : text.split(" ").map(Number);
  } catch {
    return [];
  }
}

/** Of one process, from its start; undefined once it has ended. */
export function cpuSecondsOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the name in parentheses, which may hold spaces.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    return undefined;
  }
}
