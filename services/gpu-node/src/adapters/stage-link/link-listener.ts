/**
 * Takes connections of the ranks that may dial this one, and hands over those that passed the
 * handshake. One link per dialing rank: a second process of the same rank is refused while the
 * first one's link is alive, and taken once that has ended; the same process may come again at any
 * time, since it has given up the old link itself.
 */
import { createServer, type Server, type Socket } from "node:net";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import { Handshake } from "./handshake.ts";
import { Link, type LinkHandlers } from "./link.ts";
import { type LinkAddress, linkAddressText } from "./link-address.ts";
import { expectedDialers, type LinkIdentity, rankText } from "./link-identity.ts";
import type { LinkLimits } from "./link-limits.ts";
import type { Hello } from "./link-message.ts";
import { type LinkLog, needsChecksum, warnIfPlain } from "./link-guard.ts";
import { type LinkSecurity, secureAccepted } from "./link-security.ts";
import { listenOnPath, type UnixPath } from "./unix-path.ts";
import { lostError, Wire } from "./wire.ts";

/** Connections that have not passed the handshake yet; further ones are dropped. */
const STRANGERS_MAX = 16;

export interface LinkListenerOptions {
  readonly address: LinkAddress;
  readonly identity: LinkIdentity;
  readonly limits: LinkLimits;
  /** Without it streams are plain, which is for one machine or a network of one's own. */
  readonly security?: LinkSecurity | undefined;
  /** A peer has passed the handshake. Called before a frame of it is read. */
  readonly onLink: (link: Link) => LinkHandlers;
  readonly log: LinkLog;
}

export class LinkListener {
  readonly #options: LinkListenerOptions;
  readonly #server: Server;
  readonly #strangers = new Set<Socket>();
  readonly #links = new Map<string, Link>();
  #path: UnixPath | undefined;
  #isClosed = false;

  constructor(options: LinkListenerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /**
   * Resolves to the address, with the port that was found for port 0. Throws ADDRESS_IN_USE, or
   * ADDRESS_NOT_USABLE with what the system says.
   */
  async listen(): Promise<LinkAddress> {
    const { address, security, log } = this.#options;
    warnIfPlain(address, security, log);
    try {
      if (address.kind === "unix") this.#path = await listenOnPath(this.#server, address.path);
      else await listenOnPort(this.#server, address.host, address.port);
    } catch (thrown) {
      throw listenError(address, thrown);
    }
    this.#server.on("error", (error) => log.warn({ error }, "the stage link's listener failed"));
    const bound = this.#server.address();
    if (address.kind === "unix" || bound === null || typeof bound === "string") return address;
    return { ...address, port: bound.port };
  }

  /** Links that are up. */
  get links(): readonly Link[] {
    return [...this.#links.values()];
  }

  /** Takes no more connections and ends the links. Twice is fine. */
  async close(reason = "this rank stops"): Promise<void> {
    this.#isClosed = true;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#strangers) socket.destroy();
    for (const link of this.links) link.close(reason);
    await this.#path?.remove();
    await closed;
  }

  #accept(raw: Socket): void {
    const { log, security } = this.#options;
    if (this.#isClosed || this.#strangers.size >= STRANGERS_MAX) {
      log.warn({ strangersMax: STRANGERS_MAX }, "too many connections without a handshake");
      raw.destroy();
      return;
    }
    this.#strangers.add(raw);
    raw.once("close", () => this.#strangers.delete(raw));
    const handshake = this.#handshake(raw);
    if (security === undefined) return handshake.begin(new Wire(raw, handshake));
    secureAccepted(raw, security, this.#options.identity.group).then(
      ({ socket, refusal }) => {
        handshake.begin(new Wire(socket, handshake));
        if (refusal !== undefined) handshake.cancel(refusal);
      },
      (thrown: unknown) => handshake.cancel(toAppError(thrown)),
    );
  }

  #handshake(raw: Socket): Handshake {
    const { identity: own, limits, log } = this.#options;
    const handshake = new Handshake({
      side: "listener",
      own,
      limits,
      expected: expectedDialers(own),
      objection: (peer) => this.#objection(peer),
      onAgreed: (wire, hello, protocol) => {
        this.#strangers.delete(raw);
        this.#begin(wire, hello, protocol);
      },
      onFailed: (error) => {
        log.warn({ error }, "a connection to the stage link failed");
        if (!handshake.hasWire) raw.destroy();
      },
    });
    // It may fail before anybody reads it, while TLS begins.
    raw.on("error", (cause) => handshake.cancel(lostError(cause.message, cause)));
    return handshake;
  }

  #objection(peer: LinkIdentity): AppError | undefined {
    const held = this.#links.get(rankText(peer));
    if (held === undefined || held.peer.incarnation === peer.incarnation) return undefined;
    const message =
      `${rankText(peer)} has a link to ${rankText(this.#options.identity)} that is alive, as ` +
      `incarnation ${held.peer.incarnation}; this is ${peer.incarnation}: stop one of them`;
    return new AppError("already_exists", message, {
      reason: "PEER_ALREADY_LINKED",
      retryable: true,
    });
  }

  #begin(wire: Wire, hello: Hello, protocol: number): void {
    const { address, security, limits, onLink, log } = this.#options;
    const key = rankText(hello.identity);
    this.#links.get(key)?.close("its peer has come again");
    const payloadChecksum = needsChecksum(address, security);
    const link = new Link({ wire, peer: hello, protocol, limits, payloadChecksum });
    this.#links.set(key, link);
    const handlers = onLink(link);
    log.info({ peer: link.peer }, "stage link up");
    link.begin({
      onFrame: (frame) => handlers.onFrame(frame),
      onEnd: (error) => {
        if (this.#links.get(key) === link) this.#links.delete(key);
        log.info(
          { peer: link.peer, reason: error.reason, error: error.message },
          "stage link down",
        );
        handlers.onEnd(error);
      },
    });
  }
}

async function listenOnPort(server: Server, host: string, port: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(port, host, resolve);
  await promise;
  server.off("error", reject);
}

function listenError(address: LinkAddress, thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  const { message: why, code } = thrown as NodeJS.ErrnoException;
  const message = `the stage link cannot listen on ${linkAddressText(address)}: ${why}`;
  const reason = code === "EADDRINUSE" ? "ADDRESS_IN_USE" : "ADDRESS_NOT_USABLE";
  return new AppError("failed_precondition", message, { reason, cause: thrown });
}
