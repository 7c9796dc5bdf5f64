/**
 * A private folder for the unix sockets between the stages of a group. Not the data folder itself:
 * the path of a unix socket has room for 107 bytes, and not every file system takes sockets. A link
 * `sockets` in the data folder says where it is, so that the next start on the same data removes
 * what a killed one left behind.
 */
import { lstatSync, mkdtempSync, readlinkSync, rmSync, symlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";

export interface SocketFolder {
  readonly path: string;
  remove(): void;
}

/** Bytes of `sun_path` on Linux, less the zero at the end. */
export const socketPathBytesMax = 107;
/** Room for the names in it: `/g63-63.sock`. */
const nameBytesMax = 20;
const prefix = "fluxline-sockets-";

/** The caller holds the lock of `dataFolder`. `parent` is the system's folder for such things. */
export function makeSocketFolder(dataFolder: string, parent: string): SocketFolder {
  const link = join(dataFolder, "sockets");
  removeLeftOver(link);
  const bytes = Buffer.byteLength(join(parent, `${prefix}XXXXXX`)) + nameBytesMax;
  if (bytes > socketPathBytesMax) {
    throw new AppError(
      "failed_precondition",
      `the temporary folder ${parent} has too long a name for unix sockets, which have room for ` +
        `${socketPathBytesMax} bytes; set TMPDIR to a shorter one, like /tmp`,
      { reason: "SOCKET_FOLDER_UNUSABLE", details: { folder: parent } },
    );
  }
  const path = makePrivate(parent);
  symlinkSync(path, link);
  return { path, remove: () => removeLeftOver(link) };
}

/** mkdtemp makes it for its owner alone. */
function makePrivate(parent: string): string {
  try {
    return mkdtempSync(join(parent, prefix));
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code;
    const text = `no folder for unix sockets can be made in ${parent} (${why}); set TMPDIR to another`;
    const options = { reason: "SOCKET_FOLDER_UNUSABLE", details: { folder: parent }, cause };
    throw new AppError("failed_precondition", text, options);
  }
}

/** Removes the link and the folder that it names, if that is one of ours. */
function removeLeftOver(link: string): void {
  if (lstatSync(link, { throwIfNoEntry: false }) === undefined) return;
  const folder = readLink(link);
  rmSync(link, { recursive: true, force: true });
  if (folder === undefined || !basename(folder).startsWith(prefix)) return;
  if (lstatSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true) return;
  rmSync(folder, { recursive: true, force: true });
}

function readLink(link: string): string | undefined {
  try {
    return readlinkSync(link);
  } catch (thrown) {
    // Something else of that name: only the name is ours.
    if ((thrown as NodeJS.ErrnoException).code === "EINVAL") return undefined;
    throw thrown;
  }
}
