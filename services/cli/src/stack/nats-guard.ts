/**
 * Owns a nats-server on behalf of `fluxline`: says when it accepts connections, and ends it when
 * stdin ends, because nats-server itself would outlive a parent that was killed.
 *
 *   node nats-guard.ts HOST PORT NATS_SERVER ARGS...
 */
import { spawn } from "node:child_process";
import { connect } from "node:net";

const pollMs = 10;
const readyMsMax = 20_000;
const killAfterMs = 5_000;

const [host = "", port = "", file = "", ...args] = process.argv.slice(2);
const server = spawn(file, args, { stdio: ["ignore", "inherit", "inherit"] });

function fail(message: string): void {
  const error = { code: "failed_precondition", reason: "NATS_SERVER_FAILED", message };
  const record = { ...error, retryable: false, violations: [], details: {} };
  process.stdout.write(`${JSON.stringify({ event: "failed", error: record })}\n`);
}

let stopping = false;
function stop(): void {
  if (stopping) return;
  stopping = true;
  server.kill("SIGTERM");
  setTimeout(() => server.kill("SIGKILL"), killAfterMs).unref();
}

process.on("SIGTERM", stop);
process.on("SIGINT", () => undefined);
process.stdin.on("end", stop).on("error", stop).resume();
server.on("error", (error) => {
  fail(`nats-server at ${file} could not be started: ${error.message}`);
  process.exit(1);
});
server.on("exit", (code) => process.exit(stopping ? 0 : (code ?? 1)));

/** Resolves to whether something accepts connections there. */
function accepts(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: Number(port) });
    const answer = (accepted: boolean) => {
      socket.destroy();
      resolve(accepted);
    };
    socket.once("connect", () => answer(true)).once("error", () => answer(false));
  });
}

const begun = performance.now();
while (!(await accepts())) {
  if (performance.now() - begun > readyMsMax) {
    fail(`nats-server does not accept connections on ${host}:${port}`);
    stop();
    break;
  }
  await new Promise((resolve) => setTimeout(resolve, pollMs));
}
if (!stopping) process.stdout.write(`${JSON.stringify({ event: "ready", pid: server.pid })}\n`);
