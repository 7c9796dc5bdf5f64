/**
 * The path of a listening unix socket. It appears only when the socket is listening and nobody
 * else may open it, it replaces what a killed process left behind, and never a socket on which
 * somebody listens or a file that is not a socket.
 */
import { chmod, lstat, mkdtemp, rename, rm } from "node:fs/promises";
import { connect, type Server } from "node:net";
import { AppError } from "@fluxline/kernel/error.ts";

const OWNER_ONLY = 0o600;

export interface UnixPath {
  /** Removes the path if it is still ours. */
  remove(): Promise<void>;
}

/** Throws ADDRESS_IN_USE, or what the system says. */
export async function listenOnPath(server: Server, path: string): Promise<UnixPath> {
  await refuseIfUsed(path);
  // Made where nobody else can go, until its permissions are right.
  const folder = await mkdtemp(`${path}.`);
  const made = `${folder}/s`;
  try {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject);
    server.listen(made, resolve);
    await promise;
    server.off("error", reject);
    await chmod(made, OWNER_ONLY);
    await rename(made, path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const { ino } = await lstat(path);
  return {
    remove: async () => {
      const found = await lstatIfThere(path);
      if (found?.ino === ino) await rm(path, { force: true });
    },
  };
}

async function refuseIfUsed(path: string): Promise<void> {
  const found = await lstatIfThere(path);
  if (found === undefined) return;
  if (!found.isSocket()) throw inUse(path, "is not a socket; remove it or choose another path");
  if (await isListening(path)) {
    throw inUse(path, "has a process listening; stop it or choose another path");
  }
}

async function lstatIfThere(path: string) {
  try {
    return await lstat(path);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw thrown;
  }
}

function isListening(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    // A full backlog (EAGAIN) belongs to somebody who listens.
    socket.once("error", (error: NodeJS.ErrnoException) =>
      resolve(error.code !== "ECONNREFUSED" && error.code !== "ENOENT"),
    );
  });
}

function inUse(path: string, why: string): AppError {
  return new AppError("failed_precondition", `the stage link cannot listen: ${path} ${why}`, {
    reason: "ADDRESS_IN_USE",
  });
}
