/** Frames over a pipe. What is under way is bounded by the calls in flight, one per slot. */
import type { Socket } from "node:net";
import { toAppError } from "@fluxline/kernel/error.ts";
import { type Frame, frameChunks, type FrameLimits, FrameReader } from "../frame.ts";

/** A runner and its driver trust each other; these only catch a stream that went wrong. */
const LIMITS: FrameLimits = {
  headerBytesMax: 4 * 1024 * 1024,
  payloadBytesMax: 8 * 1024 * 1024 * 1024,
};

export interface ChannelHandlers {
  readonly onFrame: (frame: Frame) => void;
  /** Once, when the other side is gone or the stream is broken. */
  readonly onEnd: (error: Error | undefined) => void;
}

export class FrameChannel {
  readonly #socket: Socket;

  constructor(socket: Socket, handlers: ChannelHandlers) {
    this.#socket = socket;
    const reader = new FrameReader({ limits: LIMITS, onFrame: handlers.onFrame });
    let ended = false;
    const end = (error: Error | undefined): void => {
      if (ended) return;
      ended = true;
      socket.destroy();
      handlers.onEnd(error);
    };
    socket.on("data", (chunk: Buffer) => {
      try {
        reader.push(chunk);
      } catch (thrown) {
        end(toAppError(thrown));
      }
    });
    socket.on("error", (error) => end(error));
    socket.on("close", () => end(undefined));
  }

  send(header: unknown, parts: readonly Uint8Array[]): void {
    if (this.#socket.destroyed) return;
    this.#socket.cork();
    for (const chunk of frameChunks(header, parts)) this.#socket.write(chunk);
    this.#socket.uncork();
  }

  close(): void {
    this.#socket.destroy();
  }
}
