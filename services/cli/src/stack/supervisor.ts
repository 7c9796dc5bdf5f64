/**
 * Keeps one child alive: starts it, and starts it again when it dies, within the bounds of
 * `decideRestart`. A child that dies before it was ever ready is not tried again: its first start
 * says why, and the second would say the same.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "@fluxline/kernel/error.ts";
import {
  Child,
  type ChildSpec,
  describeDeath,
  type Progress,
  type ReadyFacts,
  tailOf,
} from "./child.ts";
import { decideRestart } from "./restart-policy.ts";

export type StackEvent =
  | { readonly kind: "died"; readonly child: string; readonly how: string; readonly log: string }
  | { readonly kind: "restarted"; readonly child: string; readonly pid: number }
  | ({ readonly kind: "progress"; readonly child: string } & Progress);

export class Supervisor {
  readonly spec: ChildSpec;
  readonly #onEvent: (event: StackEvent) => void;
  readonly #stopping = new AbortController();
  readonly #gaveUp = Promise.withResolvers<never>();
  #child: Child;
  #deathsMs: number[] = [];

  constructor(spec: ChildSpec, onEvent: (event: StackEvent) => void) {
    this.spec = spec;
    this.#onEvent = onEvent;
    this.#child = this.#spawn();
    this.#gaveUp.promise.catch(() => undefined);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Rejects when the child cannot be kept alive; never resolves. */
  get gaveUp(): Promise<never> {
    return this.#gaveUp.promise;
  }

  /** The first start; from then on the child is watched. */
  async start(): Promise<ReadyFacts> {
    const facts = await this.#child.ready;
    void this.#watch();
    return facts;
  }

  /** From now on it may end by itself, and is not started again. */
  letEnd(): void {
    this.#stopping.abort();
  }

  async stop(): Promise<void> {
    this.letEnd();
    await this.#child.stop();
  }

  killGroup(): void {
    this.letEnd();
    this.#child.killGroup();
  }

  #spawn(): Child {
    const child = this.spec.name;
    return new Child(this.spec, ({ what, done, total, unit }) =>
      this.#onEvent({ kind: "progress", child, what, done, total, unit }),
    );
  }

  async #watch(): Promise<void> {
    const { name, logFile } = this.spec;
    while (true) {
      const death = await this.#child.ended;
      if (this.#stopping.signal.aborted) return;
      // A grandchild that lost its parent would hold the device.
      this.#child.killGroup();
      this.#deathsMs.push(performance.now());
      this.#onEvent({ kind: "died", child: name, how: describeDeath(death), log: logFile });
      const decision = decideRestart(this.#deathsMs);
      if (decision.kind === "give-up") {
        const text = `${name} died ${decision.deaths} times within a minute:\n${tailOf(logFile)}`;
        const options = { reason: "CHILD_KEEPS_DYING", details: { log: logFile } };
        return this.#gaveUp.reject(new AppError("unavailable", text, options));
      }
      if (!(await this.#rest(decision.delayMs))) return;
      this.#child = this.#spawn();
      const child = this.#child;
      child.ready.then(
        () => this.#onEvent({ kind: "restarted", child: name, pid: child.pid }),
        // Not ready in time: it is ended, and its death decides what follows.
        () => child.killGroup(),
      );
    }
  }

  /** False when the stop came first. */
  async #rest(delayMs: number): Promise<boolean> {
    try {
      await sleep(delayMs, undefined, { signal: this.#stopping.signal });
      return true;
    } catch {
      return false;
    }
  }
}
