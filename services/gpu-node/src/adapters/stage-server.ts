/**
 * What a rank above 0 does: keeps its graphs loaded, serves calls of the driver and of the rank
 * before, passes what it computed to the rank behind or back to the driver. It has no state of its
 * own but what the driver retains here, so that a driver that goes may be followed by another.
 *
 *   rank k-1 --call--> [ runner ] --call--> rank k+1        (this rank dials it)
 *   driver  <-- status, answers --  begin, retain, call, stop -->
 */
import { assert, unreachable } from "@fluxline/kernel/assert.ts";
import { type AppError, toAppError, toErrorRecord } from "@fluxline/kernel/error.ts";
import type { DeviceRunner, GraphCall } from "./runner/device-runner.ts";
import { withInputs } from "./stage-device.ts";
import type { Link, LinkFrame, LinkHandlers } from "./stage-link/link.ts";
import { type LinkAddress, parseLinkAddress } from "./stage-link/link-address.ts";
import { LinkDialer } from "./stage-link/link-dialer.ts";
import { LinkListener } from "./stage-link/link-listener.ts";
import {
  callMessage,
  type CallMessage,
  doneMessage,
  driverToStage,
  hopsOf,
  type Outgoing,
  stageLostError,
  tensorsOf,
} from "./stage-message.ts";
import type { LinkFacts } from "./stage-remote.ts";

const STATUS_MS = 1_000;
/** For the driver to hand over what the group has, once it was asked. */
const DRAIN_MS_MAX = 8_000;

export interface StageServerOptions extends LinkFacts {
  readonly address: LinkAddress;
  readonly provider: string;
  readonly runner: DeviceRunner;
  /** The driver has handed over the group's work and ends. */
  readonly onStop: () => void;
}

/** The time of one link with a driver. */
interface Session {
  readonly link: Link;
  readonly timer: NodeJS.Timeout;
  readonly keys: Set<string>;
  /** The rank behind, once the driver has named it. */
  next: LinkDialer | undefined;
  /** There is none: this rank ends the chain. */
  isLast: boolean;
  readonly ended: Promise<void>;
  readonly end: () => void;
}

export class StageServer {
  readonly #options: StageServerOptions;
  readonly #listener: LinkListener;
  #session: Session | undefined;
  /** The driver has told us to end. */
  #isReleased = false;

  constructor(options: StageServerOptions) {
    this.#options = options;
    const { address, identity, limits, security, log } = options;
    this.#listener = new LinkListener({
      address,
      identity,
      limits,
      ...(security === undefined ? {} : { security }),
      onLink: (link) =>
        link.peer.role === "driver" ? this.#driverCame(link) : this.#neighbourCame(),
      log,
    });
  }

  /** Resolves to where it listens; throws ADDRESS_IN_USE. */
  listen(): Promise<LinkAddress> {
    return this.#listener.listen();
  }

  /** Tells a waiting driver that something changed here. */
  announce(): void {
    if (this.#session !== undefined) this.#sendStatus(this.#session);
  }

  /**
   * Asks the driver to drain the group and goes on serving until it has; without a driver there is
   * nothing to wait for.
   */
  async drain(): Promise<void> {
    const session = this.#session;
    if (session === undefined || this.#isReleased) return;
    this.#send(session, { header: { kind: "drain" }, parts: [] });
    const { promise: tooLong, resolve } = Promise.withResolvers<"too long">();
    const timer = setTimeout(() => resolve("too long"), DRAIN_MS_MAX);
    const outcome = await Promise.race([session.ended, tooLong]);
    clearTimeout(timer);
    if (outcome !== "too long") return;
    this.#options.log.warn({ drainMsMax: DRAIN_MS_MAX }, "the driver has not drained the group");
  }

  async close(): Promise<void> {
    const session = this.#session;
    await Promise.all([this.#listener.close(), session?.next?.stop()]);
  }

  #driverCame(link: Link): LinkHandlers {
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const timer = setInterval(() => this.#sendStatus(session), STATUS_MS);
    const keys = new Set<string>();
    const session: Session = { link, timer, keys, next: undefined, isLast: false, ended, end };
    // The listener has ended the link before, if the same driver comes again.
    assert(this.#session === undefined, "one driver at a time");
    this.#session = session;
    return {
      onFrame: (frame) => this.#fromDriver(session, frame),
      onEnd: (error) => this.#driverWent(session, error),
    };
  }

  #driverWent(session: Session, error: AppError): void {
    this.#options.log.info({ error: error.message }, "the driver went; waiting for one");
    this.#session = undefined;
    clearInterval(session.timer);
    for (const key of session.keys) this.#options.runner.release(key);
    void session.next?.stop("the driver went");
    session.end();
  }

  /** The rank before passes calls on, and says nothing else. */
  #neighbourCame(): LinkHandlers {
    return {
      onFrame: (frame) => {
        const message = driverToStage(frame);
        assert(message.kind === "call", `a stage sent ${message.kind}`);
        const session = this.#session;
        if (session?.link.peer.incarnation === message.driver) {
          return this.#serve(session, message, frame.payload);
        }
        const facts = { id: message.id, driver: message.driver };
        this.#options.log.info(facts, "a call whose driver has no link to this stage is dropped");
      },
      onEnd: () => undefined,
    };
  }

  #fromDriver(session: Session, frame: LinkFrame): void | Promise<void> {
    const { runner, onStop } = this.#options;
    const message = driverToStage(frame);
    switch (message.kind) {
      case "begin":
        this.#begin(session, message.next);
        return this.#sendStatus(session);
      case "retain": {
        session.keys.add(message.key);
        runner.retain(message.key, tensorsOf(message.tensors, frame.payload));
        const { sequence } = message;
        return this.#send(session, { header: { kind: "retained", sequence }, parts: [] });
      }
      case "release":
        session.keys.delete(message.key);
        return runner.release(message.key);
      case "call":
        return this.#serve(session, message, frame.payload);
      case "stop":
        this.#isReleased = true;
        session.end();
        return onStop();
      default:
        return unreachable(message, "message of a driver");
    }
  }

  #begin(session: Session, next: string | undefined): void {
    assert(session.next === undefined && !session.isLast, "a driver begins once on a link");
    session.isLast = next === undefined;
    if (next === undefined) return;
    const { identity, limits, security, random, log } = this.#options;
    session.next = new LinkDialer({
      address: parseLinkAddress(next, "next"),
      identity,
      expected: { role: "stage", rank: identity.rank + 1 },
      limits,
      ...(security === undefined ? {} : { security }),
      random,
      onUp: () => {
        // Its `link` is there once this has returned.
        queueMicrotask(() => this.#sendStatus(session));
        return {
          onFrame: ({ header }) => {
            log.warn({ header }, "the rank behind sent something; it answers to the driver");
          },
          onEnd: () => undefined,
        };
      },
      onDown: () => this.#sendStatus(session),
      log,
    });
    session.next.start();
  }

  /**
   * Runs the first hop and passes on the rest. It never rejects: whatever goes wrong is said to the
   * driver. Its frame's credit goes back when this settles, so that a rank that is behind slows
   * down those before it.
   */
  async #serve(session: Session, message: CallMessage, payload: Uint8Array): Promise<void> {
    const [here, following, ...rest] = hopsOf(message, payload);
    try {
      assert(here !== undefined, "a call has at least one hop");
      const { tensors, seconds: taken } = await this.#options.runner.run(here);
      const seconds = [...message.seconds, taken];
      if (following === undefined) {
        await session.link.send(...toSend(doneMessage(message.id, { tensors, seconds })));
      } else {
        const { id, driver } = message;
        const hops = [withInputs(following, tensors), ...rest];
        await this.#passOn(session, callMessage({ id, driver, seconds }, hops), hops);
      }
    } catch (thrown) {
      // Without a link there is nobody left who waits for it.
      if (session.link.ended !== undefined) return;
      const error = toErrorRecord(thrown);
      this.#send(session, { header: { kind: "failed", id: message.id, error }, parts: [] });
    }
  }

  async #passOn(session: Session, call: Outgoing, hops: readonly GraphCall[]): Promise<void> {
    const link = session.next?.link;
    const rank = this.#options.identity.rank + 1;
    if (link === undefined) throw stageLostError(`no link to rank ${rank} for ${hops[0]!.graph}`);
    try {
      await link.send(...toSend(call));
    } catch (thrown) {
      const error = toAppError(thrown);
      throw error.reason === "FRAME_TOO_LARGE" ? error : stageLostError(error.message, error);
    }
  }

  #sendStatus(session: Session): void {
    const { provider, runner } = this.#options;
    const { ready, restarts } = runner;
    const rssBytes = runner.rssBytes();
    const nextUp = session.isLast || session.next?.link !== undefined;
    const health = { provider, ready, rssBytes, restarts, ...runner.usage() };
    this.#send(session, { header: { kind: "status", ...health, nextUp }, parts: [] });
  }

  #send({ link }: Session, { header, parts }: Outgoing): void {
    link.send(header, parts).catch((error: AppError) => {
      if (link.ended === undefined) link.end(error);
    });
  }
}

function toSend({ header, parts }: Outgoing): [Outgoing["header"], readonly Uint8Array[]] {
  return [header, parts];
}
