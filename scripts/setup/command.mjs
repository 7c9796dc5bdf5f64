/** Runs a program with a bound on its time, and keeps the end of what it says. */
import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

const KEPT_OUTPUT_BYTES = 16_384;

/**
 * Resolves to `{ ok, output, reason }`; never throws. `output` is the end of stdout and stderr
 * together. A program that runs past `limitMs` is ended with everything it started. `onStart` gets
 * its process id, which is also that of its group.
 */
export function runCommand(file, args, { limitMs, onStart, ...options }) {
  return new Promise((resolve) => {
    let output = "";
    let timedOut = false;
    const keep = (chunk) => {
      output = (output + chunk).slice(-KEPT_OUTPUT_BYTES);
    };
    const stdio = ["ignore", "pipe", "pipe"];
    const child = spawn(file, args, { ...options, stdio, detached: true });
    if (child.pid !== undefined) onStart?.(child.pid);
    const timer = setTimeout(() => {
      timedOut = true;
      killGroup(child.pid, "SIGKILL");
    }, limitMs);
    const onSignal = (signal) => killGroup(child.pid, signal);
    process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
    const done = (ok, reason) => {
      clearTimeout(timer);
      process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
      resolve({ ok, output: output.trim(), reason });
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    child.on("error", (error) => done(false, error.message));
    child.on("close", (code, signal) => {
      const limit = `it ran longer than ${limitMs / 1000} s and was ended`;
      const reason = timedOut ? limit : (signal ?? `exit code ${code}`);
      done(code === 0 && !timedOut, reason);
    });
  });
}

/** Ends a process and everything in its group; one that has gone already is fine. */
export function killGroup(pid, signal) {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

/** The first executable of this name on the search path, leaving out folders under `except`. */
export function findOnPath(name, except) {
  const folders = (process.env.PATH ?? "").split(delimiter).filter((each) => each !== "");
  // Debian puts servers here, and it is not on the path of every user.
  for (const folder of [...folders, "/usr/sbin", "/usr/local/sbin"]) {
    if (except !== undefined && folder.startsWith(except)) continue;
    const file = join(folder, name);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      continue;
    }
  }
  return undefined;
}
