/** TCP ports on this machine: a free one, or the certainty that a given one is. */
import { createServer } from "node:net";
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";

export const loopback = "127.0.0.1";

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  return bindOnce(0);
}

/** `wanted`, if nothing listens there; 0 means any. `option` names it in the error. */
export async function claimPort(wanted: number, option: string): Promise<number> {
  try {
    return await bindOnce(wanted);
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    const what =
      code === "EADDRINUSE"
        ? `port ${wanted} of ${loopback} is taken by another program`
        : `port ${wanted} of ${loopback} cannot be used (${code})`;
    const description = `${what}; choose another one, or ${option} 0 for any free one`;
    const { message, violations } = invalidArgument([{ field: option, description }]);
    const options = { reason: "PORT_TAKEN", violations, details: { port: String(wanted) } };
    throw new AppError("failed_precondition", message, options);
  }
}

async function bindOnce(port: number): Promise<number> {
  const server = createServer();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(port, loopback, resolve);
  await promise;
  const address = server.address();
  await new Promise((closed) => server.close(closed));
  if (address === null || typeof address === "string") {
    throw new AppError("internal", `a TCP server has the address ${address}`);
  }
  return address.port;
}
