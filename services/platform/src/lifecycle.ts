/**
 * Start order, drain order, signals. Parts are drained in the reverse of the order in which they
 * were added, each within its own bound. A second signal ends the process at once.
 */
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import type { Logger } from "./log.ts";

export interface Part {
  readonly name: string;
  /** Finishes what is in work and lets go of what it holds. */
  drain(): Promise<void>;
}

const drainMsMax = 10_000;

export class Lifecycle {
  readonly #log: Logger;
  readonly #parts: Part[] = [];
  readonly #stop = Promise.withResolvers<string>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** The drain has begun: what fails from now on fails because of it. */
  get draining(): boolean {
    return this.#draining;
  }

  /** A part that comes when the drain has begun is drained at once. */
  add(part: Part): void {
    this.#parts.push(part);
    if (this.#draining) void this.drain();
  }

  /** Asks for the end, as a signal would; the first reason counts. */
  stop(reason: string): void {
    this.#stop.resolve(reason);
  }

  /**
   * Waits for SIGTERM, SIGINT or `stop`, then drains every part. Resolves to the exit code: 0, or
   * 1 if a part did not drain. With `untilStdinEnds` the end of stdin counts as a signal, so that
   * a child does not outlive a parent that was killed.
   */
  async run(options: { untilStdinEnds?: boolean } = {}): Promise<number> {
    const onSignal = (signal: NodeJS.Signals) => {
      if (this.#signalled) process.exit(1);
      this.#signalled = true;
      this.stop(signal);
    };
    process.on("SIGTERM", onSignal);
    process.on("SIGINT", onSignal);
    if (options.untilStdinEnds) {
      process.stdin.on("end", () => this.stop("end of stdin"));
      process.stdin.on("error", () => this.stop("end of stdin"));
      process.stdin.resume();
    }
    const reason = await this.#stop.promise;
    this.#log.info({ reason }, "draining");
    return this.drain();
  }

  /** Drains what was added so far: also the way out of a start that failed halfway. */
  async drain(): Promise<number> {
    this.#draining = true;
    let code = 0;
    for (const part of this.#parts.splice(0).toReversed()) {
      try {
        await within(part.drain(), part.name);
        this.#log.debug({ part: part.name }, "drained");
      } catch (thrown) {
        code = 1;
        this.#log.error({ part: part.name, error: toAppError(thrown) }, "did not drain");
      }
    }
    return code;
  }

  #signalled = false;
  #draining = false;
}

async function within(work: Promise<void>, name: string): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const message = `${name} did not drain within ${drainMsMax / 1000} s`;
  const timer = setTimeout(() => reject(new AppError("deadline_exceeded", message)), drainMsMax);
  try {
    await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}
