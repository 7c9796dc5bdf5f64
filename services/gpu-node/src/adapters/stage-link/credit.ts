/**
 * Back-pressure by credit, counted in frames and bytes. The receiver grants a window in its hello;
 * a frame takes one frame and its header and payload bytes from it, and what it took goes back
 * when the frame's handler has settled. So a receiver never holds more than its window, and a
 * sender never needs to ask.
 */
import { AppError } from "@fluxline/kernel/error.ts";

export interface Credit {
  readonly frames: number;
  readonly bytes: number;
}

/** What the peer still takes. */
export class SendCredit {
  readonly #window: Credit;
  #frames: number;
  #bytes: number;

  constructor(window: Credit) {
    this.#window = window;
    this.#frames = window.frames;
    this.#bytes = window.bytes;
  }

  /** Takes credit for one frame of so many bytes, if there is enough. */
  take(bytes: number): boolean {
    if (this.#frames < 1 || this.#bytes < bytes) return false;
    this.#frames -= 1;
    this.#bytes -= bytes;
    return true;
  }

  /** Throws when more comes back than was taken. */
  giveBack({ frames, bytes }: Credit): void {
    this.#frames += frames;
    this.#bytes += bytes;
    if (this.#frames <= this.#window.frames && this.#bytes <= this.#window.bytes) return;
    const message = `the peer gave back more credit than was used: ${frames} frames, ${bytes} bytes`;
    throw new AppError("data_loss", message, { reason: "PROTOCOL_VIOLATION", retryable: true });
  }
}

/** What we have granted, and owe the peer since handlers have settled. */
export class ReceiveCredit {
  readonly #window: Credit;
  #framesHeld = 0;
  #bytesHeld = 0;
  #framesOwed = 0;
  #bytesOwed = 0;

  constructor(window: Credit) {
    this.#window = window;
  }

  /** A frame begins to come. Throws CREDIT_EXCEEDED if the peer had no credit for it. */
  hold(bytes: number): void {
    const frames = this.#framesHeld + this.#framesOwed + 1;
    const total = this.#bytesHeld + this.#bytesOwed + bytes;
    if (frames > this.#window.frames || total > this.#window.bytes) {
      const granted = `${this.#window.frames} frames and ${this.#window.bytes} bytes`;
      const message = `the peer sent ${frames} frames with ${total} bytes and may send ${granted}`;
      throw new AppError("data_loss", message, { reason: "CREDIT_EXCEEDED", retryable: true });
    }
    this.#framesHeld += 1;
    this.#bytesHeld += bytes;
  }

  /** The handler of a held frame has settled. */
  release(bytes: number): void {
    this.#framesHeld -= 1;
    this.#bytesHeld -= bytes;
    this.#framesOwed += 1;
    this.#bytesOwed += bytes;
  }

  /** What is owed, to be sent now; `undefined` if nothing is. */
  pay(): Credit | undefined {
    if (this.#framesOwed === 0) return undefined;
    const owed = { frames: this.#framesOwed, bytes: this.#bytesOwed };
    this.#framesOwed = 0;
    this.#bytesOwed = 0;
    return owed;
  }
}
