/**
 * Ranks 1 to the last of a group, each a process somewhere, as the driver sees them together. A call
 * goes to the first rank that it needs and travels on from there; its answer comes from the last
 * one, or from wherever it ended. While a rank cannot be reached nothing is under way: whatever was
 * is given back with STAGE_LOST, to be run again when the group is whole.
 *
 *   broken <-> whole; broken for `awayMsMax` -> away -> whole
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, fromErrorRecord } from "@fluxline/kernel/error.ts";
import type { DevicesState } from "../core/driver.ts";
import type { GraphCall } from "./runner/device-runner.ts";
import type { StageDevice, StageResult } from "./stage-device.ts";
import type { LinkFrame } from "./stage-link/link.ts";
import { type LinkAddress, linkAddressText } from "./stage-link/link-address.ts";
import { callMessage, stageLostError, type StageToDriver, tensorsOf } from "./stage-message.ts";
import { type LinkFacts, RemoteStage } from "./stage-remote.ts";

/** Ranks may be started long after the driver, and a stage may have gigabytes to load. */
export const START_MS_MAX = 15 * 60_000;
/** The same for a model of a hub, of which a stage may have gigabytes to fetch first. */
export const FETCHING_START_MS_MAX = 6 * 3_600_000;
/** Above what a runner is given for an answer: then the call itself went missing. */
const ANSWER_MS_MAX = 20 * 60_000;
/** Times that steps were lost, without one that succeeded between them, after which we give up. */
const LOSSES_IN_A_ROW_MAX = 20;

export interface StageLinksOptions extends LinkFacts {
  /** Of ranks 1 to the last, in order. */
  readonly addresses: readonly LinkAddress[];
  readonly provider: string;
  /** For all ranks to be ready at the start. */
  readonly startMsMax: number;
  readonly awayMsMax: number;
  /** Not called before the group was whole for the first time. */
  readonly onState: (state: DevicesState) => void;
  /** A rank has been asked to end. */
  readonly onDrainAsked: (rank: number) => void;
  /** Steps are lost again and again; nothing will run any more. */
  readonly onBroken: (error: AppError) => void;
}

interface Pending {
  readonly resolve: (result: StageResult) => void;
  readonly reject: (error: AppError) => void;
}

type StageAnswer = StageToDriver & { kind: "done" | "failed" };

export class StageLinks {
  readonly #options: StageLinksOptions;
  readonly #stages: readonly RemoteStage[];
  readonly #pending = new Map<number, Pending>();
  readonly #started = Promise.withResolvers<void>();
  #state: "starting" | DevicesState | "stopped" = "starting";
  #timer: NodeJS.Timeout | undefined;
  #nextId = 1;
  #lossesInARow = 0;
  /** Why the group is not whole, as far as it is known. */
  #lastError: AppError | undefined;

  constructor(options: StageLinksOptions) {
    this.#options = options;
    this.#started.promise.catch(() => undefined); // whoever starts a stage hears of it
    this.#stages = options.addresses.map((address, index) => {
      return new RemoteStage({
        ...options,
        rank: index + 1,
        address,
        next: options.addresses[index + 1],
        onChange: (error) => this.#changed(error),
        onAnswer: (message, frame) => this.#answered(message, frame),
        call: (rank, hops) => this.#call(rank, hops),
        started: () => this.#start(),
      });
    });
  }

  /** By rank, from 1. */
  get stages(): readonly StageDevice[] {
    return this.#stages;
  }

  /** Tells the processes of all ranks to end: the group has handed over what it had. */
  async endStages(): Promise<void> {
    await Promise.all(this.#stages.map((stage) => stage.end()));
  }

  /** Takes no more calls; what is under way is given back. The processes live on. */
  async stop(): Promise<void> {
    this.#state = "stopped";
    clearTimeout(this.#timer);
    const error = stoppedError();
    this.#started.reject(error);
    this.#giveBack(error);
    await Promise.all(this.#stages.map((stage) => stage.stop()));
  }

  /** Dials once; resolves when all ranks are whole, rejects when one refuses us or stays out. */
  #start(): Promise<void> {
    if (this.#state !== "starting" || this.#timer !== undefined) return this.#started.promise;
    const { startMsMax } = this.#options;
    this.#timer = setTimeout(() => this.#started.reject(this.#missingError()), startMsMax);
    for (const stage of this.#stages) stage.dial();
    return this.#started.promise;
  }

  async #call(rank: number, hops: readonly GraphCall[]): Promise<StageResult> {
    const first = this.#stages[rank - 1]!;
    this.#assertWhole();
    // The first rank gets the call behind what was retained; for the others it may be faster.
    await Promise.all(
      this.#stages.slice(rank, rank - 1 + hops.length).map((stage) => stage.kept()),
    );
    // Whatever breaks from here on finds the call among the pending.
    this.#assertWhole();
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<StageResult>();
    this.#pending.set(id, { resolve, reject });
    const lost = (what: string, cause?: unknown): void => {
      if (this.#pending.delete(id)) reject(stageLostError(what, cause));
    };
    const timer = setTimeout(
      () => lost(`no answer for ${ANSWER_MS_MAX / 60_000} minutes`),
      ANSWER_MS_MAX,
    );
    const facts = { id, driver: this.#options.identity.incarnation, seconds: [] };
    first.send(callMessage(facts, hops)).catch((error: AppError) => {
      // Too many rows for a frame: the batch is at fault, not the way.
      if (error.reason !== "FRAME_TOO_LARGE") return lost(error.message, error);
      if (this.#pending.delete(id)) reject(error);
    });
    return promise.finally(() => clearTimeout(timer));
  }

  #assertWhole(): void {
    if (this.#state === "stopped") throw stoppedError();
    if (this.#state !== "whole") throw stageLostError("the group is not whole");
  }

  #answered(message: StageAnswer, frame: LinkFrame): void {
    const pending = this.#pending.get(message.id);
    // Given back before: it is run again, or its job is gone.
    if (pending === undefined) return;
    this.#pending.delete(message.id);
    if (message.kind === "failed") {
      pending.reject(fromErrorRecord(message.error));
      if (message.error.reason === "STAGE_LOST") this.#countLoss(message.error.message);
      return;
    }
    this.#lossesInARow = 0;
    const { seconds } = message;
    pending.resolve({ tensors: tensorsOf(message.tensors, frame.payload), seconds });
  }

  #changed(error: AppError | undefined): void {
    if (this.#state === "stopped") return;
    this.#lastError = error ?? this.#lastError;
    if (this.#state === "starting" && error !== undefined && isForGood(error)) {
      return this.#started.reject(error);
    }
    const isWhole = this.#stages.every((stage) => stage.whole);
    if (isWhole && this.#state !== "whole") this.#becomeWhole();
    if (!isWhole && this.#state === "whole") this.#break(error);
  }

  #becomeWhole(): void {
    const { log, onState } = this.#options;
    clearTimeout(this.#timer);
    const isFirst = this.#state === "starting";
    this.#state = "whole";
    log.info({ ranks: this.#stages.length + 1 }, "the group is whole");
    if (isFirst) this.#started.resolve();
    else onState("whole");
  }

  #break(error: AppError | undefined): void {
    const { log, onState, awayMsMax } = this.#options;
    const why = error?.message ?? "a rank cannot pass on its work";
    this.#state = "broken";
    log.warn({ why, underWay: this.#pending.size }, "the group is not whole");
    this.#timer = setTimeout(() => this.#away(), awayMsMax);
    onState("broken");
    const isLoss = this.#pending.size > 0;
    this.#giveBack(stageLostError(why, error));
    if (isLoss) this.#countLoss(why);
  }

  #countLoss(why: string): void {
    this.#lossesInARow += 1;
    if (this.#lossesInARow < LOSSES_IN_A_ROW_MAX) return;
    const message = `steps were lost ${LOSSES_IN_A_ROW_MAX} times in a row; the last time: ${why}`;
    this.#options.onBroken(new AppError("unavailable", message, { reason: "STAGE_LOST" }));
  }

  #away(): void {
    const { log, onState, awayMsMax } = this.#options;
    assert(this.#state === "broken", "only a broken group can stay away");
    this.#state = "away";
    const error = this.#lastError?.message;
    log.warn({ awayMsMax, error }, "a rank stays away: the group hands back what it has");
    onState("away");
  }

  #giveBack(error: AppError): void {
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending) reject(error);
  }

  #missingError(): AppError {
    const missing = this.#stages.flatMap((stage, index) =>
      stage.whole
        ? []
        : [`rank ${index + 1} at ${linkAddressText(this.#options.addresses[index]!)}`],
    );
    const last =
      this.#lastError === undefined ? "" : `; the last error: ${this.#lastError.message}`;
    const minutes = this.#options.startMsMax / 60_000;
    const message = `not ready within ${minutes} minutes: ${missing.join(", ")}${last}`;
    return new AppError("unavailable", message, { reason: "STAGES_MISSING" });
  }
}

/** Nothing will run here any more, and nobody is to try. */
function stoppedError(): AppError {
  const message = "the driver ends its links to the stages";
  return new AppError("cancelled", message, { reason: "RUNNER_BROKEN", retryable: true });
}

/** Dialing again would meet the same answer. */
function isForGood(error: AppError): boolean {
  return !error.retryable;
}
