/** Wires the command line to this process: streams, environment, signals, exit code. */
import { delimiter } from "node:path";
import { runCommandLine } from "./command-line.ts";
import { exitCode } from "./exit-code.ts";
import type { Session } from "./session.ts";

const interruption = new AbortController();

/** The first signal asks for an orderly end, the second ends at once. */
function onSignal(): void {
  if (interruption.signal.aborted) process.exit(exitCode.interrupted);
  interruption.abort();
}
process.on("SIGINT", onSignal);
process.on("SIGTERM", onSignal);
process.on("SIGHUP", onSignal);
// `fluxline jobs list | head`: who reads no more is no error of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(exitCode.ok);
});

const session: Session = {
  stdout: process.stdout,
  stderr: process.stderr,
  stdin: process.stdin,
  interrupted: interruption.signal,
  environment: process.env,
  natsServer: process.env["FLUXLINE_NATS_SERVER"],
  searchPath: (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== ""),
  onExit: (cleanUp) => process.on("exit", cleanUp),
};

process.exitCode = await runCommandLine(process.argv.slice(2), session);
