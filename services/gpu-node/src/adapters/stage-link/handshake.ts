/**
 * The first words on a stage link. Nobody sends a user's frame before both sides have found that
 * they belong together; whoever finds that they do not, tells the other why.
 *
 *   dialer                       listener
 *   hello ---------------------> compares, or refuses
 *   compares, or refuses <------ hello
 *   accept --------------------> the link is up
 *   the link is up
 */
import { AppError } from "@fluxline/kernel/error.ts";
import type { Frame, FramePrefix } from "../frame.ts";
import {
  commonProtocol,
  type ExpectedPeer,
  identityViolations,
  type LinkIdentity,
  mismatchError,
  type ProtocolRange,
  rankViolations,
} from "./link-identity.ts";
import type { LinkLimits } from "./link-limits.ts";
import {
  CONTROL_BYTES_MAX,
  controlFrame,
  errorFrame,
  type Hello,
  LINK_KINDS,
  readError,
  readHello,
  readProtocol,
  violation,
} from "./link-message.ts";
import type { Wire, WireUser } from "./wire.ts";

/** Versions of the users' messages that this release speaks. */
export const PROTOCOL: ProtocolRange = { min: 1, max: 1 };

export interface HandshakeOptions {
  readonly side: "dialer" | "listener";
  readonly own: LinkIdentity;
  readonly limits: LinkLimits;
  /** One of these has to be at the other end. */
  readonly expected: readonly ExpectedPeer[];
  readonly protocol?: ProtocolRange;
  /** Why this peer, which fits, may not have a link now; `undefined` if it may. */
  readonly objection?: (peer: LinkIdentity) => AppError | undefined;
  /** Both sides agree; the caller takes the wire over before it returns. */
  readonly onAgreed: (wire: Wire, peer: Hello, protocol: number) => void;
  /** Once; the connection is closed, or will be in a moment. */
  readonly onFailed: (error: AppError) => void;
}

export class Handshake implements WireUser {
  readonly limits = { headerBytesMax: CONTROL_BYTES_MAX, payloadBytesMax: 0 };
  readonly #options: HandshakeOptions;
  readonly #protocol: ProtocolRange;
  readonly #timer: NodeJS.Timeout;
  #wire: Wire | undefined;
  #peer: { readonly hello: Hello; readonly protocol: number } | undefined;
  #isOver = false;

  constructor(options: HandshakeOptions) {
    this.#options = options;
    this.#protocol = options.protocol ?? PROTOCOL;
    const { handshakeMsMax } = options.limits;
    this.#timer = setTimeout(() => this.#fail(timeoutError(handshakeMsMax)), handshakeMsMax);
  }

  /** There was a connection, which this closes; without one the caller does. */
  get hasWire(): boolean {
    return this.#wire !== undefined;
  }

  /** There is a connection. */
  begin(wire: Wire): void {
    if (this.#isOver) return wire.destroy();
    this.#wire = wire;
    if (this.#options.side === "dialer") wire.write(this.#ownHello());
  }

  /** Gives up, from outside. */
  cancel(error: AppError): void {
    this.#fail(error);
  }

  onPrefix({ kind }: FramePrefix): void {
    const isKnown = kind >= LINK_KINDS.hello && kind <= LINK_KINDS.refuse;
    if (!isKnown) throw violation(`it sent a frame of kind ${kind} before the handshake`);
  }

  onFrame(frame: Frame): void {
    if (this.#isOver) return;
    if (frame.kind === LINK_KINDS.refuse) return this.#leave(refusedByPeer(readError(frame)));
    if (this.#peer !== undefined) {
      if (frame.kind !== LINK_KINDS.accept) throw violation("it said hello twice");
      return this.#agree(this.#peer);
    }
    if (frame.kind !== LINK_KINDS.hello) throw violation("it accepted before it said hello");
    // Another version's hello may look different in all but this.
    const protocol = commonProtocol(this.#protocol, readProtocol(frame));
    if (typeof protocol !== "number") return this.#fail(mismatchError([protocol]));
    const hello = readHello(frame);
    const refusal = this.#judge(hello);
    if (refusal !== undefined) return this.#fail(refusal);
    this.#peer = { hello, protocol };
    if (this.#options.side === "listener") return this.#wire!.write(this.#ownHello());
    this.#wire!.write(controlFrame("accept"));
    this.#agree(this.#peer);
  }

  onBroken(error: AppError): void {
    // The link has begun and its owner threw.
    if (this.#isOver) throw error;
    if (error.reason !== "FRAME_MAGIC") return this.#fail(error);
    const message = `${error.message}; check the address, and that both ends or none use TLS`;
    this.#fail(new AppError(error.code, message, { reason: error.reason, retryable: true }));
  }

  onLost(error: AppError): void {
    this.#leave(error);
  }

  #ownHello(): Uint8Array {
    const { headerBytesMax, payloadBytesMax, windowFrames, windowBytes, heartbeatMs } =
      this.#options.limits;
    const hello: Hello = {
      protocol: this.#protocol,
      identity: this.#options.own,
      limits: { headerBytesMax, payloadBytesMax, windowFrames, windowBytes, heartbeatMs },
    };
    return controlFrame("hello", hello);
  }

  /** Why this peer cannot be talked to. */
  #judge({ identity, limits }: Hello): AppError | undefined {
    const { own, expected, limits: ownLimits, objection } = this.#options;
    const violations = [
      ...rankViolations(own, identity, expected),
      ...identityViolations(own, identity),
    ];
    if (2 * limits.heartbeatMs > ownLimits.silenceMsMax) {
      const description =
        `is ${limits.heartbeatMs} at one end and the other gives up after ` +
        `${ownLimits.silenceMsMax} of silence; let it be at most half of that`;
      violations.push({ field: "heartbeatMs", description });
    }
    return violations.length > 0 ? mismatchError(violations) : objection?.(identity);
  }

  #agree({ hello, protocol }: { hello: Hello; protocol: number }): void {
    // Another connection of the same peer may have been faster since the hello.
    const objection = this.#options.objection?.(hello.identity);
    if (objection !== undefined) return this.#fail(objection);
    this.#finish();
    this.#options.onAgreed(this.#wire!, hello, protocol);
  }

  /** This side refuses, and says why. */
  #fail(error: AppError): void {
    if (this.#isOver) return;
    this.#finish();
    this.#wire?.farewell(errorFrame("refuse", error));
    this.#options.onFailed(error);
  }

  /** The other side has refused, or is gone. */
  #leave(error: AppError): void {
    if (this.#isOver) return;
    this.#finish();
    this.#wire?.destroy();
    this.#options.onFailed(error);
  }

  #finish(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }
}

function refusedByPeer(error: AppError): AppError {
  const { code, reason, retryable, violations, message } = error;
  return new AppError(code, `the peer refuses the stage link: ${message}`, {
    reason,
    retryable,
    violations,
  });
}

function timeoutError(msMax: number): AppError {
  const message = `the stage link's handshake was not done within ${msMax / 1000} s`;
  return new AppError("deadline_exceeded", message, {
    reason: "HANDSHAKE_TIMEOUT",
    retryable: true,
  });
}
