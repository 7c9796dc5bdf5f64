/**
 * Keeps a link to one rank: connects, and connects again when the link ends or could not be made,
 * with growing, jittered pauses of a bounded length, until it is stopped. It never gives up by
 * itself; the owner hears of every failure and may.
 */
import { connect, type Socket } from "node:net";
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import type { Random } from "@fluxline/kernel/random.ts";
import { Handshake } from "./handshake.ts";
import { Link, type LinkHandlers } from "./link.ts";
import { type LinkAddress, linkAddressText } from "./link-address.ts";
import { type LinkLog, needsChecksum, warnIfPlain } from "./link-guard.ts";
import { type ExpectedPeer, type LinkIdentity, rankText } from "./link-identity.ts";
import type { LinkLimits } from "./link-limits.ts";
import type { Hello } from "./link-message.ts";
import { type LinkSecurity, secureDialed } from "./link-security.ts";
import { Wire } from "./wire.ts";

const PAUSE_MS_FIRST = 50;
const PAUSE_MS_MAX = 2_000;

export interface LinkDialerOptions {
  readonly address: LinkAddress;
  readonly identity: LinkIdentity;
  /** Who has to listen there. */
  readonly expected: ExpectedPeer;
  readonly limits: LinkLimits;
  readonly security?: LinkSecurity | undefined;
  /** For the jitter. */
  readonly random: Random;
  /** The handshake is done. Called before a frame of the peer is read. */
  readonly onUp: (link: Link) => LinkHandlers;
  /**
   * The link ended, or an attempt to make one failed; after a pause there will be another.
   * `failures`: how many in a row, counting a link that did not last as one.
   */
  readonly onDown: (error: AppError, failures: number) => void;
  readonly log: LinkLog;
  readonly pauseMs?: { readonly first: number; readonly max: number };
}

export class LinkDialer {
  readonly #options: LinkDialerOptions;
  readonly #pauseMs: { readonly first: number; readonly max: number };
  #handshake: Handshake | undefined;
  #socket: Socket | undefined;
  #link: Link | undefined;
  #timer: NodeJS.Timeout | undefined;
  #failures = 0;
  #upSinceMs = 0;
  #state: "new" | "started" | "stopped" = "new";

  constructor(options: LinkDialerOptions) {
    this.#options = options;
    this.#pauseMs = options.pauseMs ?? { first: PAUSE_MS_FIRST, max: PAUSE_MS_MAX };
  }

  /** The link, while it is up. */
  get link(): Link | undefined {
    return this.#link;
  }

  start(): void {
    assert(this.#state === "new", "a dialer is started once");
    this.#state = "started";
    warnIfPlain(this.#options.address, this.#options.security, this.#options.log);
    this.#dial();
  }

  /** Ends the link, if there is one, and makes no other. Resolves when the socket is closed. */
  async stop(reason?: string): Promise<void> {
    this.#state = "stopped";
    clearTimeout(this.#timer);
    const socket = this.#socket;
    const closed = new Promise<void>((resolve) => {
      if (socket === undefined || socket.closed) resolve();
      else socket.once("close", () => resolve());
    });
    this.#link?.close(reason);
    this.#handshake?.cancel(new AppError("cancelled", "the dialer was stopped"));
    await closed;
  }

  #dial(): void {
    const { address, identity, expected, limits } = this.#options;
    const handshake = new Handshake({
      side: "dialer",
      own: identity,
      limits,
      expected: [expected],
      onAgreed: (wire, hello, protocol) => this.#up(wire, hello, protocol),
      onFailed: (error) => {
        if (!handshake.hasWire) socket.destroy();
        this.#down(error);
      },
    });
    const socket = connect(
      address.kind === "unix"
        ? { path: address.path }
        : { host: address.host, port: address.port, noDelay: true },
    );
    this.#handshake = handshake;
    this.#socket = socket;
    socket.on("error", (cause) => {
      if (!handshake.hasWire) handshake.cancel(unreachable(address, expected, cause));
    });
    socket.once("connect", () => this.#connected(socket, handshake));
  }

  #connected(socket: Socket, handshake: Handshake): void {
    const { security, identity } = this.#options;
    if (security === undefined) return handshake.begin(new Wire(socket, handshake));
    secureDialed(socket, security, identity.group).then(
      ({ socket: secured, refusal }) => {
        handshake.begin(new Wire(secured, handshake));
        if (refusal !== undefined) handshake.cancel(refusal);
      },
      (thrown: unknown) => handshake.cancel(toAppError(thrown)),
    );
  }

  #up(wire: Wire, hello: Hello, protocol: number): void {
    const { address, security, limits, onUp, log } = this.#options;
    const payloadChecksum = needsChecksum(address, security);
    const link = new Link({ wire, peer: hello, protocol, limits, payloadChecksum });
    this.#handshake = undefined;
    this.#link = link;
    this.#upSinceMs = performance.now();
    const handlers = onUp(link);
    log.info({ peer: link.peer }, "stage link up");
    link.begin({
      onFrame: (frame) => handlers.onFrame(frame),
      onEnd: (error) => {
        this.#link = undefined;
        if (performance.now() - this.#upSinceMs >= this.#pauseMs.max) this.#failures = 0;
        handlers.onEnd(error);
        this.#down(error);
      },
    });
  }

  #down(error: AppError): void {
    const { expected, log, onDown, random } = this.#options;
    this.#handshake = undefined;
    if (this.#state === "stopped") return;
    this.#failures += 1;
    const { first, max } = this.#pauseMs;
    const pauseMs = Math.min(max, first * 2 ** Math.min(this.#failures - 1, 30));
    const jitteredMs = pauseMs * (0.5 + random.float() / 2);
    const facts = { reason: error.reason, error: error.message, failures: this.#failures };
    log.info(facts, `no stage link to ${rankText(expected)}`);
    this.#timer = setTimeout(() => this.#dial(), jitteredMs);
    onDown(error, this.#failures);
  }
}

function unreachable(address: LinkAddress, expected: ExpectedPeer, cause: Error): AppError {
  const message =
    `${rankText(expected)} cannot be reached at ${linkAddressText(address)}: ${cause.message}; ` +
    "check that it is started, and the address";
  return new AppError("unavailable", message, {
    reason: "LINK_UNREACHABLE",
    retryable: true,
    cause,
  });
}
