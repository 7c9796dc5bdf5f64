/**
 * The folder in which a stack keeps its data, and the lock that lets one stack at a time have it:
 * a file with the owner's process id and start time, made by a link, so that it is there whole or
 * not at all. A lock whose owner is gone is taken over.
 *
 *   DIR/lock   DIR/logs/*.log   DIR/nats.conf   DIR/jetstream/
 */
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";

export interface DataFolder {
  readonly path: string;
  logFile(child: string): string;
  release(): void;
}

interface Owner {
  readonly pid: number;
  /** Start time of that process in clock ticks since boot, so that a reused id is told apart. */
  readonly started: string;
}

const attemptsMax = 5;

export function openDataFolder(given: string): DataFolder {
  const path = resolve(given);
  makeFolder(join(path, "logs"), path);
  const lock = join(path, "lock");
  const own: Owner = { pid: process.pid, started: startTime(process.pid) ?? "" };
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    if (tryLock(lock, own)) {
      return {
        path,
        logFile: (child) => join(path, "logs", `${child}.log`),
        release: () => rmSync(lock, { force: true }),
      };
    }
    const owner = readOwner(lock);
    if (owner !== undefined && isAlive(owner)) throw takenError(path, owner);
    if (owner !== undefined) takeAway(lock, owner);
  }
  throw new AppError("aborted", `the lock of ${path} changed hands too often: try again`);
}

function takenError(path: string, owner: Owner): AppError {
  return new AppError(
    "failed_precondition",
    `--data: ${path} is in use by process ${owner.pid}, another \`fluxline up\`; ` +
      "stop that one, or give this one a folder of its own with --data DIR",
    { reason: "DATA_FOLDER_IN_USE", details: { folder: path, pid: String(owner.pid) } },
  );
}

function makeFolder(folder: string, path: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code;
    const text = `--data: ${path} cannot be made or written to (${why}); give another folder`;
    throw new AppError("failed_precondition", text, { reason: "DATA_FOLDER_UNUSABLE", cause });
  }
}

function tryLock(lock: string, own: Owner): boolean {
  const mine = `${lock}.${own.pid}`;
  try {
    writeFileSync(mine, JSON.stringify(own));
    linkSync(mine, lock);
    return true;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== "EEXIST") throw thrown;
    return false;
  } finally {
    rmSync(mine, { force: true });
  }
}

/** Removes a dead owner's lock, and puts back what another process has put there meanwhile. */
function takeAway(lock: string, dead: Owner): void {
  const aside = `${lock}.stale.${process.pid}`;
  try {
    renameSync(lock, aside);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return;
    throw thrown;
  }
  try {
    const found = readOwner(aside);
    if (found?.pid !== dead.pid || found.started !== dead.started) linkSync(aside, lock);
  } finally {
    rmSync(aside, { force: true });
  }
}

function readOwner(lock: string): Owner | undefined {
  try {
    return JSON.parse(readFileSync(lock, "utf8")) as Owner;
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw thrown;
  }
}

function isAlive(owner: Owner): boolean {
  try {
    process.kill(owner.pid, 0);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  const started = startTime(owner.pid);
  return started === undefined || started === owner.started;
}

/** Field 22 of /proc/PID/stat; undefined where there is no /proc. */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the program's name in parentheses, and may hold anything.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}
