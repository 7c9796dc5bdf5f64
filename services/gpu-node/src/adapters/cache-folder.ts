/** Where this machine keeps what can be made or fetched again. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";

/** Of a process, as `process.env` has it. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Where all programs of this user keep such things: `XDG_CACHE_HOME`, or `~/.cache`. */
export function userCaches(environment: Environment): string {
  return environment["XDG_CACHE_HOME"] || join(environment["HOME"] || homedir(), ".cache");
}

/** `FLUXLINE_CACHE`, or `fluxline` among the user's caches; absolute. */
export function cacheFolder(environment: Environment): string {
  return resolve(environment["FLUXLINE_CACHE"] || join(userCaches(environment), "fluxline"));
}

/** Weights in int8, by model: `adapters/quantised-cache.ts`. */
export function quantisedFolder(environment: Environment): string {
  return join(cacheFolder(environment), "quantised");
}
