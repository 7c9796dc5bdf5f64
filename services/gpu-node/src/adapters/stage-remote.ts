/**
 * The driver's side of one rank that is another process: keeps the link to it, tells it on each new
 * link what it has to keep, and knows whether it can take part in a step.
 *
 *   link down -> up: begin, all that is retained -> status says ready, all is kept -> whole
 */
import { unreachable } from "@fluxline/kernel/assert.ts";
import type { AppError } from "@fluxline/kernel/error.ts";
import type { Random } from "@fluxline/kernel/random.ts";
import type { NamedTensors } from "../core/tensor.ts";
import type { GraphCall } from "./runner/device-runner.ts";
import type { StageDevice, StageHealth, StageResult } from "./stage-device.ts";
import type { LinkFrame, LinkHandlers } from "./stage-link/link.ts";
import { type LinkAddress, linkAddressText } from "./stage-link/link-address.ts";
import { LinkDialer } from "./stage-link/link-dialer.ts";
import type { LinkLog } from "./stage-link/link-guard.ts";
import type { LinkIdentity } from "./stage-link/link-identity.ts";
import type { LinkLimits } from "./stage-link/link-limits.ts";
import type { LinkSecurity } from "./stage-link/link-security.ts";
import {
  type Outgoing,
  retainMessage,
  stageLostError,
  type StageStatus,
  type StageToDriver,
  stageToDriver,
} from "./stage-message.ts";

/** For the last word to a stage to be taken by the system. */
const STOP_MS_MAX = 1_000;

export interface LinkFacts {
  readonly identity: LinkIdentity;
  readonly limits: LinkLimits;
  readonly security?: LinkSecurity | undefined;
  readonly random: Random;
  readonly log: LinkLog;
}

export interface RemoteStageOptions extends LinkFacts {
  readonly rank: number;
  readonly address: LinkAddress;
  /** Where this rank finds the one behind it. */
  readonly next: LinkAddress | undefined;
  readonly provider: string;
  /** Something of `whole` may have changed; with why it is not, when a link went or was refused. */
  readonly onChange: (error?: AppError) => void;
  readonly onAnswer: (
    message: StageToDriver & { kind: "done" | "failed" },
    frame: LinkFrame,
  ) => void;
  readonly onDrainAsked: (rank: number) => void;
  readonly call: (rank: number, hops: readonly GraphCall[]) => Promise<StageResult>;
  readonly started: () => Promise<void>;
}

interface Waiter {
  readonly sequence: number;
  readonly resolve: () => void;
  readonly reject: (error: AppError) => void;
}

export class RemoteStage implements StageDevice {
  readonly #options: RemoteStageOptions;
  readonly #dialer: LinkDialer;
  readonly #retained = new Map<string, NamedTensors>();
  #status: StageStatus | undefined;
  /** It has been ready on this link: from then on calls wait there for a runner that restarts. */
  #wasReady = false;
  /** Of what is to be retained over this link: sent or about to be, with what it began, kept. */
  #sequence = 0;
  #sequenceAtBegin = 0;
  #sequenceKept = 0;
  #waiters: Waiter[] = [];
  /** Retained and released in order, one frame after another: there may be many. */
  #outbox: Promise<void> = Promise.resolve();

  constructor(options: RemoteStageOptions) {
    this.#options = options;
    const { rank, address, identity, limits, security, random, log, onChange } = options;
    this.#dialer = new LinkDialer({
      address,
      identity,
      expected: { role: "stage", rank },
      limits,
      ...(security === undefined ? {} : { security }),
      random,
      onUp: () => this.#up(),
      onDown: (error) => onChange(error),
      log,
    });
  }

  /** Calls can be given to it, and it can pass them on. */
  get whole(): boolean {
    const hasBegun = this.#wasReady && this.#sequenceKept >= this.#sequenceAtBegin;
    return this.#dialer.link !== undefined && hasBegun && this.#status!.nextUp;
  }

  dial(): void {
    this.#dialer.start();
  }

  /** Resolves once everything retained so far is there; rejects when the link goes. */
  kept(): Promise<void> {
    if (this.#sequenceKept === this.#sequence) return Promise.resolve();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiters.push({ sequence: this.#sequence, resolve, reject });
    return promise;
  }

  /** Behind what was retained so far. Rejects when the frame could not be handed to the system. */
  send({ header, parts }: Outgoing): Promise<void> {
    const { link } = this.#dialer;
    if (link === undefined) {
      return Promise.reject(stageLostError(`there is no link to rank ${this.#options.rank}`));
    }
    return this.#outbox.then(() => link.send(header, parts));
  }

  run(hops: readonly GraphCall[]): Promise<StageResult> {
    return this.#options.call(this.#options.rank, hops);
  }

  retain(key: string, tensors: NamedTensors): void {
    this.#retained.set(key, tensors);
    this.#sendRetained(key, tensors);
  }

  release(key: string): void {
    if (!this.#retained.delete(key)) return;
    this.#tell({ header: { kind: "release", key }, parts: [] });
  }

  start(): Promise<void> {
    return this.#options.started();
  }

  stop(): Promise<void> {
    return this.#dialer.stop("the driver ends");
  }

  /** Tells the process to end. Resolves when that is on its way, or cannot be. */
  async end(): Promise<void> {
    const { log, rank } = this.#options;
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, STOP_MS_MAX).unref());
    const told = this.send({ header: { kind: "stop" }, parts: [] }).catch((error: AppError) =>
      log.info({ rank, error: error.message }, "a stage could not be told to end"),
    );
    await Promise.race([told, timeout]);
  }

  health(): StageHealth {
    const { rank, provider } = this.#options;
    const isUp = this.#dialer.link !== undefined && this.#status !== undefined;
    const unknown = { rssBytes: 0, restarts: 0, busySeconds: 0, upSeconds: 0 };
    const { rssBytes, restarts, busySeconds, upSeconds } = this.#status ?? unknown;
    const ready = isUp && this.#status!.ready && this.whole;
    const usage = { busySeconds, upSeconds };
    return { rank, provider, ready, rssBytes: isUp ? rssBytes : 0, restarts, ...usage };
  }

  #up(): LinkHandlers {
    const { next, onChange } = this.#options;
    this.#status = undefined;
    this.#wasReady = false;
    this.#sequence = 0;
    this.#sequenceKept = 0;
    const begin = next === undefined ? {} : { next: linkAddressText(next) };
    this.#outbox = Promise.resolve();
    this.#tell({ header: { kind: "begin", ...begin }, parts: [] });
    for (const [key, tensors] of this.#retained) this.#sendRetained(key, tensors);
    this.#sequenceAtBegin = this.#sequence;
    return {
      onFrame: (frame) => this.#receive(frame),
      onEnd: (error) => {
        const lost = stageLostError(`rank ${this.#options.rank}: ${error.message}`, error);
        for (const waiter of this.#waiters.splice(0)) waiter.reject(lost);
        onChange(error);
      },
    };
  }

  #receive(frame: LinkFrame): void {
    const message = stageToDriver(frame);
    switch (message.kind) {
      case "status":
        this.#status = message;
        this.#wasReady ||= message.ready;
        return this.#options.onChange();
      case "retained":
        this.#sequenceKept = message.sequence;
        this.#waiters = this.#waiters.filter(({ sequence, resolve }) => {
          if (sequence > message.sequence) return true;
          resolve();
          return false;
        });
        return this.#options.onChange();
      case "done":
      case "failed":
        return this.#options.onAnswer(message, frame);
      case "drain":
        return this.#options.onDrainAsked(this.#options.rank);
      default:
        return unreachable(message, "message of a stage");
    }
  }

  #sendRetained(key: string, tensors: NamedTensors): void {
    this.#sequence += 1;
    this.#tell(retainMessage(this.#sequence, key, tensors));
  }

  /** What is lost with the link is told again over the next one. */
  #tell({ header, parts }: Outgoing): void {
    const { link } = this.#dialer;
    if (link === undefined) return;
    this.#outbox = this.#outbox
      .then(() => link.send(header, parts))
      .catch((error: AppError) => {
        if (link.ended !== undefined) return;
        // It would be missed there: begin anew.
        this.#options.log.warn({ rank: this.#options.rank, error }, "a stage could not be told");
        link.end(error);
      });
  }
}
