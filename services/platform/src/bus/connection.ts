/**
 * The connection to NATS, and what nats.js would do silently, made explicit:
 *
 *   nats.js                                          here
 *   drops what is published while it reconnects      `publish` says false, `request` "undelivered"
 *   a payload above the server's limit ends the      refused before it is sent, with both sizes
 *   connection
 *   tries ten times to reconnect, then closes        tries until `close`, with a bounded delay; the
 *                                                    state is visible in `connected`
 *   an old server ignores options it does not know   `serverVersionMin` and `warnings`
 */
import {
  connect,
  type ConnectionOptions,
  type Msg,
  type NatsConnection,
} from "@nats-io/transport-node";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import type { JetStreamClient, JetStreamManager } from "@nats-io/jetstream";
import { AppError } from "@fluxline/kernel/error.ts";

export interface BusOptions {
  /** Like `nats://127.0.0.1:4222`. */
  readonly url: string;
  /** Shown by the server beside the connection, like `scheduler`. */
  readonly name: string;
  readonly connectTimeoutMs?: number;
  /** How long to keep trying the first connection; 0 tries once. */
  readonly firstConnectMs?: number;
  readonly user?: string | undefined;
  readonly password?: string | undefined;
  /** Told when the connection breaks, comes back, or the server complains. */
  readonly onStatus?: (status: BusStatus) => void;
}

export type BusStatus =
  | { readonly kind: "disconnected" }
  | { readonly kind: "reconnected" }
  | { readonly kind: "error"; readonly message: string }
  | { readonly kind: "closed" };

/** Debian 12 ships 2.9.10, and all that we use works there. */
export const serverVersionMin = "2.9.10";
/** Below this a few options are unknown to the server; we use none of them, but say so. */
export const serverVersionTested = "2.14.0";

const connectTimeoutMsDefault = 5_000;
/** Between tries of the first connection: a server that starts beside us is soon there. */
const firstConnectDelayMs = 50;
const reconnectDelayMs = 250;
const reconnectJitterMs = 250;
const pingIntervalMs = 5_000;
const pingsUnansweredMax = 2;
/** JetStream calls that get no answer within this end with an error. */
const jetStreamTimeoutMs = 5_000;

export class Bus {
  readonly connection: NatsConnection;
  readonly jetStream: JetStreamClient;
  readonly jetStreamManager: JetStreamManager;
  readonly url: string;
  /** What the server lacks, in words for the log; empty with a current one. */
  readonly warnings: readonly string[];
  #connected = true;
  readonly #listeners = new Set<(status: BusStatus) => void>();

  constructor(
    connection: NatsConnection,
    manager: JetStreamManager,
    url: string,
    warnings: readonly string[],
    onStatus: ((status: BusStatus) => void) | undefined,
  ) {
    this.connection = connection;
    this.jetStream = jetstream(connection, { timeout: jetStreamTimeoutMs });
    this.jetStreamManager = manager;
    this.url = url;
    this.warnings = warnings;
    if (onStatus) this.#listeners.add(onStatus);
    void this.#follow();
  }

  /** False while the connection is broken; nothing that is published then would arrive. */
  get connected(): boolean {
    return this.#connected && !this.connection.isClosed();
  }

  get payloadBytesMax(): number {
    return this.connection.info?.max_payload ?? 0;
  }

  /** Calls `listener` on each change; the returned function ends that. */
  onStatus(listener: (status: BusStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * What is under way when the connection breaks gets no answer any more: this rejects then, and
   * not only after the timeout of the work.
   */
  async untilBroken<T>(work: Promise<T>): Promise<T> {
    const { promise: broken, reject } = Promise.withResolvers<never>();
    const unfollow = this.onStatus(({ kind }) => {
      if (kind === "disconnected" || kind === "closed") reject(brokenError(this.url));
    });
    try {
      return await Promise.race([work, broken]);
    } finally {
      unfollow();
    }
  }

  /** Sends an event. False when it certainly was not sent; true is no promise of arrival. */
  publish(subject: string, payload: Uint8Array): boolean {
    this.requireFits(subject, payload);
    if (!this.connected) return false;
    this.connection.publish(subject, payload);
    return true;
  }

  /** Throws when the server would refuse the size (and end the connection for it). */
  requireFits(what: string, payload: Uint8Array): void {
    const limit = this.payloadBytesMax;
    if (limit === 0 || payload.length <= limit) return;
    throw new AppError(
      "invalid_argument",
      `message for ${what} has ${payload.length} bytes and NATS at ${this.url} takes ${limit}: ` +
        "raise max_payload there, or send less",
      { reason: "MESSAGE_TOO_LARGE" },
    );
  }

  /** Finishes what is subscribed and published, then closes. */
  async drain(): Promise<void> {
    if (this.connection.isClosed()) return;
    if (this.#connected) await this.connection.drain();
    else await this.connection.close();
  }

  async close(): Promise<void> {
    await this.connection.close();
  }

  async #follow(): Promise<void> {
    for await (const status of this.connection.status()) {
      switch (status.type) {
        case "disconnect":
          this.#connected = false;
          this.#tell({ kind: "disconnected" });
          break;
        case "reconnect":
          this.#connected = true;
          this.#tell({ kind: "reconnected" });
          break;
        case "error":
          this.#tell({ kind: "error", message: status.error.message });
          break;
        default:
          break;
      }
    }
    this.#connected = false;
    this.#tell({ kind: "closed" });
  }

  #tell(status: BusStatus): void {
    for (const listener of this.#listeners) listener(status);
  }
}

/** Connects, checks the server, and never gives up reconnecting afterwards. */
export async function connectBus(options: BusOptions): Promise<Bus> {
  const connection = await firstConnection(options);
  try {
    const warnings = checkServer(connection, options.url);
    const manager = await jetstreamManager(connection, { timeout: jetStreamTimeoutMs });
    return new Bus(connection, manager, options.url, warnings, options.onStatus);
  } catch (thrown) {
    await connection.close();
    throw thrown;
  }
}

async function firstConnection(options: BusOptions): Promise<NatsConnection> {
  const deadlineMs = Date.now() + (options.firstConnectMs ?? 0);
  const settings: ConnectionOptions = {
    servers: options.url,
    name: options.name,
    timeout: options.connectTimeoutMs ?? connectTimeoutMsDefault,
    maxReconnectAttempts: -1,
    reconnectTimeWait: reconnectDelayMs,
    reconnectJitter: reconnectJitterMs,
    pingInterval: pingIntervalMs,
    maxPingOut: pingsUnansweredMax,
    ...(options.user === undefined ? {} : { user: options.user }),
    ...(options.password === undefined ? {} : { pass: options.password }),
  };
  for (;;) {
    try {
      return await connect(settings);
    } catch (cause) {
      if (Date.now() >= deadlineMs) throw unreachableError(options.url, cause);
      await new Promise((resolve) => setTimeout(resolve, firstConnectDelayMs));
    }
  }
}

function brokenError(url: string): AppError {
  const text = `the connection to NATS at ${url} broke before it answered`;
  return new AppError("unavailable", text, { reason: "NATS_DISCONNECTED", details: { url } });
}

function unreachableError(url: string, cause: unknown): AppError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new AppError(
    "unavailable",
    `cannot reach NATS at ${url} (${why}): start a nats-server there with JetStream on ` +
      "(nats-server --jetstream), or give the right address",
    { reason: "NATS_UNREACHABLE", cause, details: { url } },
  );
}

function checkServer(connection: NatsConnection, url: string): string[] {
  const info = connection.info;
  const version = info?.version ?? "0.0.0";
  if (isOlder(version, serverVersionMin)) {
    throw new AppError(
      "failed_precondition",
      `NATS at ${url} is version ${version}; ${serverVersionMin} or newer is needed`,
      { reason: "NATS_TOO_OLD" },
    );
  }
  if (info?.jetstream !== true) {
    throw new AppError(
      "failed_precondition",
      `NATS at ${url} runs without JetStream, which keeps jobs and images: start it with --jetstream`,
      { reason: "JETSTREAM_MISSING" },
    );
  }
  if (info.headers !== true) {
    throw new AppError(
      "failed_precondition",
      `NATS at ${url} has headers switched off, which compare-and-set needs: remove no_header`,
      { reason: "NATS_HEADERS_MISSING" },
    );
  }
  if (!isOlder(version, serverVersionTested)) return [];
  return [
    `NATS at ${url} is version ${version}: it works, but lacks compression, metadata and ` +
      `per-message TTL; ${serverVersionTested} or newer is recommended`,
  ];
}

function isOlder(version: string, than: string): boolean {
  const parts = (text: string) => text.split(/[.-]/).map((part) => Number.parseInt(part, 10) || 0);
  const [left, right] = [parts(version), parts(than)];
  for (let i = 0; i < 3; i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return false;
}

export type { Msg };
