/** Where the nats-server program is: named by the environment, left by set-up, or on the PATH. */
import { accessSync, constants } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AppError } from "@fluxline/kernel/error.ts";
import type { Session } from "../session.ts";

const leftBySetup = new URL("../../../../.cache/bin/nats-server", import.meta.url);

export function findNatsServer(session: Session): string {
  if (session.natsServer) {
    if (isExecutable(session.natsServer)) return session.natsServer;
    throw new AppError(
      "failed_precondition",
      `FLUXLINE_NATS_SERVER is ${session.natsServer}, which is no program; ` +
        "set it to the path of nats-server, or unset it",
      { reason: "NATS_SERVER_NOT_FOUND" },
    );
  }
  const places = session.searchPath.map((folder) => join(folder, "nats-server"));
  const found = [fileURLToPath(leftBySetup), ...places].find(isExecutable);
  if (found !== undefined) return found;
  throw new AppError(
    "failed_precondition",
    "there is no nats-server; get one with `npm run setup`, put one on the PATH, " +
      "or set FLUXLINE_NATS_SERVER to its path",
    { reason: "NATS_SERVER_NOT_FOUND" },
  );
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
