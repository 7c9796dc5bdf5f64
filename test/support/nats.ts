/**
 * A real nats-server for tests: own folder, free port, ended with the test. Found by
 * FLUXLINE_NATS_SERVER (or NATS_SERVER), else in this repository's cache, else on the PATH;
 * without one the test fails and says so.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, globSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { payloadBytesMax } from "@fluxline/platform/bus/topology.ts";

const repository = new URL("../../", import.meta.url).pathname;
const startTimeoutMs = 15_000;

export interface NatsServer {
  readonly url: string;
  /** Ends it at once, as a crash would; its data stays. */
  kill(): Promise<void>;
  /** Starts it again on the same port and data. */
  restart(): Promise<void>;
  /** Holds its process still, and lets it go on: a network that swallows everything. */
  pause(): void;
  resume(): void;
  /** Ends it and deletes its data. */
  close(): Promise<void>;
}

export async function startNats(): Promise<NatsServer> {
  const binary = findNatsServer();
  const folder = await mkdtemp(join(tmpdir(), "fluxline-nats-"));
  const port = await freePort();
  const config = join(folder, "nats.conf");
  await writeFile(
    config,
    `listen: "127.0.0.1:${port}"\nmax_payload: ${payloadBytesMax}\n` +
      `jetstream { store_dir: "${join(folder, "jetstream")}", max_file_store: 16GB }\n`,
  );
  let child = await launch(binary, config);
  return {
    url: `nats://127.0.0.1:${port}`,
    kill: () => end(child),
    restart: async () => {
      await end(child);
      child = await launch(binary, config);
    },
    pause: () => void child.kill("SIGSTOP"),
    resume: () => void child.kill("SIGCONT"),
    close: async () => {
      await end(child);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function findNatsServer(): string {
  const named = process.env["FLUXLINE_NATS_SERVER"] ?? process.env["NATS_SERVER"];
  if (named) return named;
  const cached = globSync(join(repository, ".cache/bin/nats-server*")).filter((path) =>
    existsSync(path),
  );
  const onPath = (process.env["PATH"] ?? "")
    .split(delimiter)
    .map((folder) => join(folder, "nats-server"))
    .filter((path) => existsSync(path));
  const found = [...cached.sort().reverse(), ...onPath][0];
  if (!found) {
    throw new Error(
      "no nats-server: run `npm run setup`, or name one with the environment variable FLUXLINE_NATS_SERVER",
    );
  }
  return found;
}

async function launch(binary: string, config: string): Promise<ChildProcess> {
  const child = spawn(binary, ["-c", config], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.stderr.on("data", (chunk: Buffer) => {
    log += chunk.toString();
    if (log.includes("Server is ready")) resolve();
  });
  child.on("error", reject);
  child.on("exit", () => reject(new Error(`nats-server ended:\n${log}`)));
  const timer = setTimeout(() => reject(new Error(`no nats-server:\n${log}`)), startTimeoutMs);
  try {
    await promise;
    return child;
  } catch (thrown) {
    child.kill("SIGKILL");
    throw thrown;
  } finally {
    clearTimeout(timer);
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
