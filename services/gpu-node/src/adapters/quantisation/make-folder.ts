/**
 * Makes a folder and those above it. node's own recursive `mkdir` (24.21) never ends where a folder
 * exists and refuses new ones with ENOENT, as /proc does.
 */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";

export function makeFolder(folder: string): void {
  if (make(folder)) return;
  makeFolder(dirname(folder));
  if (!make(folder)) mkdirSync(folder); // throws why it cannot be made
}

/** False when the folder above is missing, or says that it is. */
function make(folder: string): boolean {
  try {
    mkdirSync(folder);
    return true;
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    if (code === "EEXIST") return true;
    if (code === "ENOENT" && dirname(folder) !== folder) return false;
    throw thrown;
  }
}
