/** A real scheduler process for tests, and a client of it whose calls are promises. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { credentials, type ServiceError } from "@grpc/grpc-js";
import { AppError } from "@fluxline/kernel/error.ts";
import { fromServiceError } from "@fluxline/platform/grpc/status.ts";
import { ImageServiceClient } from "@fluxline/proto/fluxline/v1/image_service.ts";

const main = new URL("../../services/scheduler/src/main.ts", import.meta.url).pathname;
const startTimeoutMs = 30_000;

export interface SchedulerProcess {
  readonly address: string;
  readonly child: ChildProcess;
  /** What it logged so far. */
  log(): string;
  /** Ends it as a crash would. */
  kill(): Promise<void>;
  /** Asks it to end; resolves to its exit code. */
  terminate(): Promise<number | null>;
}

export async function startScheduler(
  natsUrl: string,
  env: Record<string, string> = {},
): Promise<SchedulerProcess> {
  const child = spawn(process.execPath, [main], {
    env: {
      PATH: process.env["PATH"],
      FLUXLINE_NATS_URL: natsUrl,
      FLUXLINE_UNTIL_STDIN_ENDS: "on",
      ...env,
    },
    stdio: ["pipe", "pipe", "pipe"],
  });
  let log = "";
  child.stderr.on("data", (chunk: Buffer) => {
    log += chunk.toString();
  });
  const first = Promise.withResolvers<string>();
  createInterface({ input: child.stdout }).once("line", first.resolve);
  child.once("exit", (code) => first.reject(new Error(`scheduler ended (${code}):\n${log}`)));
  const timer = setTimeout(() => first.reject(new Error(`not ready:\n${log}`)), startTimeoutMs);
  const line = await first.promise.finally(() => clearTimeout(timer));
  const ready = JSON.parse(line) as { event: string; grpc: string; reason?: string };
  if (ready.event !== "ready") throw new AppError("internal", line, { reason: ready.reason ?? "" });
  const exited = () => child.exitCode !== null || child.signalCode !== null;
  const end = async (signal: NodeJS.Signals): Promise<number | null> => {
    if (!exited()) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill(signal);
      await ended;
    }
    return child.exitCode;
  };
  return {
    address: ready.grpc,
    child,
    log: () => log,
    kill: async () => void (await end("SIGKILL")),
    terminate: () => end("SIGTERM"),
  };
}

type Callback<T> = (error: ServiceError | null, value: T) => void;

export class TestClient {
  readonly raw: ImageServiceClient;

  constructor(address: string) {
    this.raw = new ImageServiceClient(address, credentials.createInsecure(), {
      "grpc.max_receive_message_length": -1,
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 500,
    });
  }

  /** A unary call; rejects with the AppError that the server sent. */
  call<T>(start: (client: ImageServiceClient, callback: Callback<T>) => unknown): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    start(this.raw, (error, value) => {
      if (error) reject(fromServiceError(error));
      else resolve(value);
    });
    return promise;
  }

  /** Everything that a stream tells; rejects with the AppError that ended it. */
  async collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
    const all: T[] = [];
    try {
      for await (const item of stream) all.push(item);
    } catch (thrown) {
      throw fromServiceError(thrown as ServiceError);
    }
    return all;
  }

  close(): void {
    this.raw.close();
  }
}
