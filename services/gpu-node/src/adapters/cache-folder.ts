/** Where this machine keeps what can be made or fetched again. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";

type Environment = Readonly<Record<string, string | undefined>>;

/** `FLUXLINE_CACHE`, or `~/.cache/fluxline`; absolute. */
export function cacheFolder(environment: Environment): string {
  const named = environment["FLUXLINE_CACHE"];
  if (named !== undefined && named !== "") return resolve(named);
  return join(homedir(), ".cache", "fluxline");
}

/** Weights in int8, by model: `adapters/quantised-cache.ts`. */
export function quantisedFolder(environment: Environment): string {
  return join(cacheFolder(environment), "quantised");
}
