/**
 * One set-up at a time per checkout: a second one waits for the first, and one that was killed
 * leaves a lock that the next one takes over.
 */
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { say, SetupError } from "./report.mjs";

const POLL_MS = 500;
const LONGEST_WAIT_MS = 20 * 60_000;

/** Runs `work` while this process holds the lock file. */
export async function withLock(file, work) {
  await acquire(file);
  const release = () => {
    if (ownerOf(file) === process.pid) rmSync(file, { force: true });
  };
  process.once("exit", release);
  try {
    return await work();
  } finally {
    process.off("exit", release);
    release();
  }
}

async function acquire(file) {
  mkdirSync(dirname(file), { recursive: true });
  const begun = Date.now();
  let told = false;
  while (!tryAcquire(file)) {
    const owner = ownerOf(file);
    if (owner !== undefined && !isAlive(owner)) {
      takeAway(file, owner);
      continue;
    }
    if (!told) say(`another set-up of this checkout is at work (process ${owner}); waiting for it`);
    told = true;
    if (Date.now() - begun > LONGEST_WAIT_MS) {
      throw new SetupError(`another set-up (process ${owner}) has held ${file} for too long`, [
        `look at process ${owner}; if it is no set-up of Fluxline, delete ${file}`,
      ]);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** Writes the lock whole or not at all: a link either makes the name or finds it taken. */
function tryAcquire(file) {
  const own = `${file}.${process.pid}`;
  writeFileSync(own, String(process.pid));
  try {
    linkSync(own, file);
    return true;
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
    return false;
  } finally {
    rmSync(own, { force: true });
  }
}

/** Removes a dead owner's lock, and puts back what another process has put there meanwhile. */
function takeAway(file, deadOwner) {
  const aside = `${file}.stale.${process.pid}`;
  try {
    renameSync(file, aside);
  } catch (error) {
    if (error.code === "ENOENT") return;
    throw error;
  }
  try {
    if (ownerOf(aside) !== deadOwner) linkSync(aside, file);
  } finally {
    rmSync(aside, { force: true });
  }
}

function ownerOf(file) {
  try {
    return Number(readFileSync(file, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}
