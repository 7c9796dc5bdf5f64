/**
 * A stage link that is up: frames both ways, in order, each delivered at most once, with credit
 * and heartbeats. It ends once, with a typed error, and never comes back: what was under way is
 * the users' to send again over the next one.
 *
 *   send -> queue -(credit)-> slices -> socket ... socket -> frame -> onFrame -(settled)-> credit
 *
 * Between two frames what is due goes first: credit, then a heartbeat. A frame is written in slices
 * so that a peer that takes no bytes shows itself, and so that little lies in the socket's queue.
 * Bytes that come are the sign of life, whatever they belong to: a large frame on a slow line is
 * not silence.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import {
  alignedBytes,
  byteLengthOf,
  type Frame,
  frameChunks,
  type FramePrefix,
  PREFIX_BYTES,
} from "../frame.ts";
import { ReceiveCredit, SendCredit } from "./credit.ts";
import { type LinkIdentity, rankText } from "./link-identity.ts";
import type { LinkLimits } from "./link-limits.ts";
import {
  CONTROL_BYTES_MAX,
  controlFrame,
  errorFrame,
  type Hello,
  LINK_KINDS,
  readCredit,
  readError,
  violation,
} from "./link-message.ts";
import type { Wire, WireUser } from "./wire.ts";

const SLICE_BYTES = 256 * 1024;
const WRITE_AHEAD_BYTES = 1024 * 1024;
const HEARTBEAT = controlFrame("heartbeat");

export interface LinkFrame {
  readonly header: unknown;
  /** Typed arrays may be laid over it: it begins at a multiple of 8 of a buffer of its own. */
  readonly payload: Uint8Array;
}

export interface LinkHandlers {
  /**
   * In the order in which the peer sent them; the next is not held back until this one settles,
   * but its credit is. A handler that throws or rejects ends the link with that error.
   */
  onFrame(frame: LinkFrame): void | Promise<void>;
  /** Once; `reason` says what happened. */
  onEnd(error: AppError): void;
}

export interface LinkParts {
  readonly wire: Wire;
  readonly peer: Hello;
  readonly protocol: number;
  readonly limits: LinkLimits;
  /** Payloads carry a checksum: nothing else guards this stream. */
  readonly payloadChecksum: boolean;
}

interface Outgoing {
  readonly chunks: readonly Uint8Array[];
  /** Of header and payload: what it takes of the peer's credit. */
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: AppError) => void;
}

/** What of a frame is still to be written. */
interface FrameInWriting {
  readonly frame: Outgoing;
  readonly rest: Uint8Array[];
}

export class Link {
  readonly peer: LinkIdentity;
  /** Version of the messages that both sides speak. */
  readonly protocol: number;
  readonly #wire: Wire;
  readonly #limits: LinkLimits;
  readonly #peerLimits: Hello["limits"];
  readonly #payloadChecksum: boolean;
  readonly #sendCredit: SendCredit;
  readonly #receiveCredit: ReceiveCredit;
  readonly #queue: Outgoing[] = [];
  #queueBytes = 0;
  #current: FrameInWriting | undefined;
  /** Frames of which something was written and not all is known to be taken. */
  readonly #unconfirmed = new Set<Outgoing>();
  #bytesInSocket = 0;
  #heartbeatDue = false;
  #handlers: LinkHandlers | undefined;
  #ended: AppError | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Ticks since the peer sent a byte, took a byte, and gave the credit that a frame waits for. */
  #ticksSilent = 0;
  #ticksStalled = 0;
  #ticksWithoutCredit = 0;
  #waitsForCredit = false;
  #wroteSinceTick = false;
  /** Header and payload of the message that is coming. */
  #bytesComing = 0;

  constructor({ wire, peer, protocol, limits, payloadChecksum }: LinkParts) {
    this.peer = peer.identity;
    this.protocol = protocol;
    this.#wire = wire;
    this.#limits = limits;
    this.#peerLimits = peer.limits;
    this.#payloadChecksum = payloadChecksum;
    const { windowFrames, windowBytes } = peer.limits;
    this.#sendCredit = new SendCredit({ frames: windowFrames, bytes: windowBytes });
    this.#receiveCredit = new ReceiveCredit({
      frames: limits.windowFrames,
      bytes: limits.windowBytes,
    });
  }

  /** Called by who made it, before any frame is read. */
  begin(handlers: LinkHandlers): void {
    assert(this.#handlers === undefined, "a link begins once");
    this.#handlers = handlers;
    if (this.#ended !== undefined) return handlers.onEnd(this.#ended);
    this.#wire.handTo(this.#wireUser());
    this.#timer = setInterval(() => this.#tick(), this.#limits.heartbeatMs);
  }

  /** Why it ended; `undefined` while it is up. */
  get ended(): AppError | undefined {
    return this.#ended;
  }

  /** Frames that wait for credit or for the socket. */
  get queuedFrames(): number {
    return this.#queue.length;
  }

  /**
   * Sends a JSON header and raw bytes, each part padded to a multiple of 8. Resolves when the
   * system has taken the whole frame: until then the parts must not change. Rejects with
   * FRAME_TOO_LARGE, SEND_QUEUE_FULL, or the error with which the link ends.
   */
  send(header: unknown, parts: readonly Uint8Array[] = []): Promise<void> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    const payloadChecksum = this.#payloadChecksum;
    const payloadBytes = parts.reduce((sum, part) => sum + alignedBytes(part.byteLength), 0);
    if (payloadBytes > this.#peerLimits.payloadBytesMax) {
      return Promise.reject(this.#tooLarge("payload", payloadBytes));
    }
    const chunks = frameChunks(header, parts, { payloadChecksum });
    const bytes = byteLengthOf(chunks) - PREFIX_BYTES;
    if (bytes - payloadBytes > this.#peerLimits.headerBytesMax) {
      return Promise.reject(this.#tooLarge("header", bytes - payloadBytes));
    }
    if (
      this.#queue.length >= this.#limits.queueFramesMax ||
      this.#queueBytes + bytes > this.#limits.queueBytesMax
    ) {
      return Promise.reject(this.#queueFull(bytes));
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#queue.push({ chunks, bytes, resolve, reject });
    this.#queueBytes += bytes;
    this.#pump();
    return promise;
  }

  /** Ends the link from this side. What is queued is rejected; the peer is told the reason. */
  close(reason = "this side needs it no longer"): void {
    const message = `the stage link to ${rankText(this.peer)} was closed: ${reason}`;
    this.end(new AppError("cancelled", message, { reason: "LINK_CLOSED", retryable: true }));
  }

  /** As `close`, with an error of the caller's. */
  end(error: AppError): void {
    this.#end(error, true);
  }

  #wireUser(): WireUser {
    const { headerBytesMax, payloadBytesMax } = this.#limits;
    return {
      limits: { headerBytesMax, payloadBytesMax },
      onBytes: () => {
        this.#ticksSilent = 0;
      },
      onPrefix: (prefix) => this.#admit(prefix),
      onFrame: (frame) => this.#receive(frame),
      onBroken: (error) => this.#end(error, true),
      onLost: (error) => this.#end(error, false),
    };
  }

  #admit({ kind, headerBytes, payloadBytes }: FramePrefix): void {
    if (kind === LINK_KINDS.message) {
      this.#bytesComing = headerBytes + payloadBytes;
      this.#receiveCredit.hold(this.#bytesComing);
    } else if (payloadBytes > 0 || headerBytes > CONTROL_BYTES_MAX) {
      throw violation(`a frame of kind ${kind} has ${headerBytes} + ${payloadBytes} bytes`);
    }
  }

  #receive(frame: Frame): void {
    if (this.#ended !== undefined) return;
    switch (frame.kind) {
      case LINK_KINDS.message:
        return this.#handle(frame);
      case LINK_KINDS.heartbeat:
        return;
      case LINK_KINDS.credit:
        this.#sendCredit.giveBack(readCredit(frame));
        return this.#pump();
      case LINK_KINDS.bye:
      case LINK_KINDS.refuse:
        return this.#end(closedByPeer(readError(frame)), false);
      default:
        throw violation(`it sent a frame of kind ${frame.kind} after the handshake`);
    }
  }

  #handle({ header, payload }: Frame): void {
    const bytes = this.#bytesComing;
    const settle = (): void => {
      this.#receiveCredit.release(bytes);
      this.#pump();
    };
    const fail = (thrown: unknown): void => this.#end(toAppError(thrown), true);
    try {
      const handled = this.#handlers!.onFrame({ header, payload });
      if (handled === undefined) settle();
      else handled.then(settle, fail);
    } catch (thrown) {
      fail(thrown);
    }
  }

  /** Writes what may be written, in its order, as far ahead as the socket should hold. */
  #pump(): void {
    while (this.#ended === undefined && this.#bytesInSocket < WRITE_AHEAD_BYTES) {
      if (this.#current !== undefined) {
        this.#writeSlice(this.#current);
        continue;
      }
      const control = this.#nextControl();
      if (control !== undefined) this.#write(control);
      else if (!this.#beginNext()) return;
    }
  }

  #nextControl(): Uint8Array | undefined {
    const owed = this.#receiveCredit.pay();
    if (owed !== undefined) return controlFrame("credit", owed);
    if (!this.#heartbeatDue) return undefined;
    this.#heartbeatDue = false;
    return HEARTBEAT;
  }

  /** Takes the next frame from the queue if the peer has credit for it. */
  #beginNext(): boolean {
    const [next] = this.#queue;
    if (next === undefined) return false;
    this.#waitsForCredit = !this.#sendCredit.take(next.bytes);
    if (this.#waitsForCredit) return false;
    this.#ticksWithoutCredit = 0;
    this.#queue.shift();
    this.#queueBytes -= next.bytes;
    this.#current = { frame: next, rest: [...next.chunks] };
    this.#unconfirmed.add(next);
    return true;
  }

  #writeSlice({ frame, rest }: FrameInWriting): void {
    const [chunk] = rest;
    assert(chunk !== undefined, "a frame that is being written has a rest");
    if (chunk.byteLength > SLICE_BYTES) {
      rest[0] = chunk.subarray(SLICE_BYTES);
      return this.#write(chunk.subarray(0, SLICE_BYTES));
    }
    rest.shift();
    if (rest.length > 0) return this.#write(chunk);
    this.#current = undefined;
    this.#write(chunk, () => {
      if (this.#unconfirmed.delete(frame)) frame.resolve();
    });
  }

  #write(bytes: Uint8Array, onTaken?: () => void): void {
    this.#wroteSinceTick = true;
    this.#bytesInSocket += bytes.byteLength;
    this.#wire.write(bytes, () => {
      this.#bytesInSocket -= bytes.byteLength;
      this.#ticksStalled = 0;
      if (this.#ended !== undefined) return;
      onTaken?.();
      this.#pump();
    });
  }

  /**
   * Silence is counted in ticks, not in elapsed time: when this very process has been stopped, the
   * bytes that have come meanwhile are read before a second tick.
   */
  #tick(): void {
    const { heartbeatMs, silenceMsMax, creditMsMax } = this.#limits;
    const seconds = silenceMsMax / 1000;
    const ticksMax = Math.ceil(silenceMsMax / heartbeatMs);
    this.#ticksSilent += 1;
    if (this.#bytesInSocket > 0) this.#ticksStalled += 1;
    if (this.#waitsForCredit) this.#ticksWithoutCredit += 1;
    if (this.#ticksSilent > ticksMax) {
      return this.end(this.#givenUp("LINK_SILENT", `sent nothing for ${seconds} s`));
    }
    if (this.#ticksStalled > ticksMax) {
      return this.end(this.#givenUp("LINK_STALLED", `took no bytes for ${seconds} s`));
    }
    if (this.#ticksWithoutCredit > Math.ceil(creditMsMax / heartbeatMs)) {
      const what = `gave no credit for ${creditMsMax / 1000} s, with frames waiting`;
      return this.end(this.#givenUp("LINK_WITHOUT_CREDIT", what));
    }
    this.#heartbeatDue = !this.#wroteSinceTick && this.#current === undefined;
    this.#wroteSinceTick = false;
    this.#pump();
  }

  /** `tell`: the connection still works, so the peer may learn why. */
  #end(error: AppError, tell: boolean): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    clearInterval(this.#timer);
    const waiting = [...this.#unconfirmed, ...this.#queue.splice(0)];
    this.#unconfirmed.clear();
    // In the middle of a frame the words would be read as a part of it.
    if (tell && this.#current === undefined) this.#wire.farewell(errorFrame("bye", error));
    else this.#wire.destroy();
    for (const frame of waiting) frame.reject(error);
    this.#handlers?.onEnd(error);
  }

  #givenUp(reason: string, what: string): AppError {
    const message = `the stage link to ${rankText(this.peer)} is given up: it ${what}`;
    return new AppError("unavailable", message, { reason, retryable: true });
  }

  #tooLarge(part: "header" | "payload", bytes: number): AppError {
    const field = part === "header" ? "headerBytesMax" : "payloadBytesMax";
    const limit = this.#peerLimits[field];
    const message =
      `a frame with a ${part} of ${bytes} bytes is too large: ${rankText(this.peer)} takes ` +
      `${limit}; raise its ${field} or send fewer rows`;
    return new AppError("out_of_range", message, { reason: "FRAME_TOO_LARGE" });
  }

  #queueFull(bytes: number): AppError {
    const { queueFramesMax, queueBytesMax } = this.#limits;
    const message =
      `${this.#queue.length} frames with ${this.#queueBytes} bytes wait for ` +
      `${rankText(this.peer)}; there is no room for ${bytes} more ` +
      `(at most ${queueFramesMax} frames and ${queueBytesMax} bytes)`;
    return new AppError("resource_exhausted", message, {
      reason: "SEND_QUEUE_FULL",
      retryable: true,
    });
  }
}

function closedByPeer(cause: AppError): AppError {
  return new AppError("unavailable", `the peer closed the stage link: ${cause.message}`, {
    reason: "LINK_CLOSED_BY_PEER",
    retryable: true,
    details: { peerReason: cause.reason },
    cause,
  });
}
