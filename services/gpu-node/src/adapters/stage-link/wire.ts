/**
 * A connected socket as frames in and bytes out. It ends once, with a typed error; whoever uses it
 * may change in the middle of a stream, as the handshake does when the link begins.
 */
import type { Socket } from "node:net";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import { FrameReader, type FrameSink } from "../frame.ts";

/** For last words to reach a peer that may not be reading; then the socket is destroyed. */
const FAREWELL_MS_MAX = 500;

export interface WireUser extends FrameSink {
  /** Bytes have come, whatever they are. */
  onBytes?(): void;
  /** What came is not a stream of frames, or `onPrefix` or `onFrame` threw; nothing more comes. */
  onBroken(error: AppError): void;
  /** The connection is gone. */
  onLost(error: AppError): void;
}

export class Wire {
  readonly #socket: Socket;
  readonly #reader: FrameReader;
  #user: WireUser;
  /** Neither reads nor writes for anybody any more. */
  #over = false;

  constructor(socket: Socket, user: WireUser) {
    this.#socket = socket;
    this.#user = user;
    this.#reader = new FrameReader(user);
    socket.setNoDelay(true);
    socket.on("data", (bytes: Buffer) => this.#read(bytes));
    socket.on("error", (cause) => this.#lose(lostError(cause.message, cause)));
    // The peer has sent its last byte: no use of this socket goes on with one direction.
    socket.on("end", () => this.#lose(this.#endError()));
    socket.on("close", () => this.#lose(this.#endError()));
  }

  /** From the next frame on. */
  handTo(user: WireUser): void {
    this.#user = user;
    this.#reader.sink = user;
  }

  /** `onWritten` comes once the system has taken all of it, or the connection is gone. */
  write(bytes: Uint8Array, onWritten?: () => void): void {
    if (!this.#over) this.#socket.write(bytes, () => onWritten?.());
  }

  /**
   * Ends with last words. What still comes is read and dropped for a moment: a socket that is
   * destroyed with unread bytes is reset, and its peer may lose what it has not read yet.
   */
  farewell(lastWords: Uint8Array): void {
    if (this.#over) return;
    this.#over = true;
    this.#socket.end(lastWords);
    const timer = setTimeout(() => this.#socket.destroy(), FAREWELL_MS_MAX);
    this.#socket.once("close", () => clearTimeout(timer));
  }

  destroy(): void {
    this.#over = true;
    this.#socket.destroy();
  }

  #read(bytes: Buffer): void {
    if (this.#over) return;
    this.#user.onBytes?.();
    try {
      this.#reader.push(bytes);
    } catch (thrown) {
      if (!this.#over) this.#user.onBroken(toAppError(thrown));
    }
  }

  #lose(error: AppError): void {
    if (this.#over) return;
    this.destroy();
    this.#user.onLost(error);
  }

  #endError(): AppError {
    const where = this.#reader.isInFrame ? "in the middle of a frame" : "without a word";
    return lostError(`the peer ended the connection ${where}`);
  }
}

export function lostError(how: string, cause?: unknown): AppError {
  const message = `the stage link is lost: ${how}`;
  return new AppError("unavailable", message, { reason: "LINK_LOST", retryable: true, cause });
}
