/** The other end of a stage link as a plain socket, which may break every rule. */
import { connect, type Socket } from "node:net";
import type { AppError } from "@fluxline/kernel/error.ts";
import {
  type Frame,
  frameChunks,
  FrameReader,
  type FrameOptions,
} from "@fluxline/gpu-node/adapters/frame.ts";
import type { LinkAddress } from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import {
  controlFrame,
  type Hello,
  LINK_KINDS,
  readError,
} from "@fluxline/gpu-node/adapters/stage-link/link-message.ts";
import { driverIdentity, type LinkBench, testLimits } from "./stage-link.ts";
import { until } from "./until.ts";

const readAnything = { headerBytesMax: 2 ** 20, payloadBytesMax: 2 ** 26 };

export const validHello: Hello = {
  protocol: { min: 1, max: 1 },
  identity: driverIdentity,
  limits: testLimits(),
};

export class RawPeer {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  isClosed = false;

  constructor(bench: LinkBench, address: LinkAddress) {
    bench.onClose(() => this.#close());
    this.socket = connect(
      address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port },
    );
    const reader = new FrameReader({
      limits: readAnything,
      onFrame: (frame) => this.frames.push(frame),
    });
    this.socket.on("data", (bytes) => reader.push(bytes));
    // A reset is one of the ways in which the other end may close.
    this.socket.on("error", () => undefined);
    this.socket.on("close", () => {
      this.isClosed = true;
    });
  }

  /** A driver's handshake, done as it should be. */
  static async shakeHands(
    bench: LinkBench,
    address: LinkAddress,
    hello: Hello = validHello,
  ): Promise<RawPeer> {
    const peer = new RawPeer(bench, address);
    peer.write(controlFrame("hello", hello));
    await until(() => peer.frames.some(({ kind }) => kind === LINK_KINDS.hello));
    peer.write(controlFrame("accept"));
    return peer;
  }

  write(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }

  frame(header: unknown, parts: Uint8Array[] = [], options: FrameOptions = {}): void {
    this.write(frameBytes(header, parts, options));
  }

  /** The error in the last refusal or bye that came. */
  get told(): AppError | undefined {
    const kinds: number[] = [LINK_KINDS.refuse, LINK_KINDS.bye];
    const last = this.frames.findLast(({ kind }) => kinds.includes(kind));
    return last === undefined ? undefined : readError(last);
  }

  count(kind: keyof typeof LINK_KINDS): number {
    return this.frames.filter((frame) => frame.kind === LINK_KINDS[kind]).length;
  }

  async #close(): Promise<void> {
    this.socket.destroy();
    await until(() => this.isClosed);
  }
}

export function frameBytes(
  header: unknown,
  parts: Uint8Array[] = [],
  options: FrameOptions = {},
): Buffer {
  return Buffer.concat(frameChunks(header, parts, options));
}

/** The same bytes with one of them changed. */
export function changed(bytes: Uint8Array, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
  return copy;
}
