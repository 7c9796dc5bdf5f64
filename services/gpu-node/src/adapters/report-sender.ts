/**
 * Reports to the leader, kept until each is acknowledged. Reports of one job go one after another;
 * a report whose reply is lost is sent again, since recording it twice changes nothing. A leader
 * that is away is waited for: the work is done, and only the leader may make it count.
 */
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import { callBus } from "@fluxline/platform/bus/request.ts";
import { leaderSubject } from "@fluxline/platform/bus/topology.ts";
import {
  Report,
  type Report as ReportMessage,
  ReportReply,
  ReportReply_Outcome,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";

const REPLY_TIMEOUT_MS = 3_000;
const RETRY_DELAY_MS_FIRST = 100;
const RETRY_DELAY_MS_MAX = 5_000;

export type ReportOutcome = "recorded" | "stale";

export interface ReportSenderOptions {
  readonly bus: Bus;
  readonly pool: string;
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
}

export class ReportSender {
  readonly #options: ReportSenderOptions;
  /** The last report of each job that has one under way. */
  readonly #chains = new Map<string, Promise<unknown>>();
  #stopped = false;
  /** Ends the pauses under way. */
  readonly #wakers = new Set<() => void>();

  constructor(options: ReportSenderOptions) {
    this.#options = options;
  }

  /** Resolves with what the leader said; undefined when we were stopped before it did. */
  send(job: string, report: () => ReportMessage): Promise<ReportOutcome | undefined> {
    const before = this.#chains.get(job) ?? Promise.resolve();
    const outcome = before.then(() => this.#deliver(job, report));
    const chain = outcome.finally(() => {
      if (this.#chains.get(job) === chain) this.#chains.delete(job);
    });
    this.#chains.set(job, chain);
    return outcome;
  }

  stop(): void {
    this.#stopped = true;
    for (const wake of this.#wakers) wake();
  }

  async #deliver(job: string, report: () => ReportMessage): Promise<ReportOutcome | undefined> {
    for (let delay = RETRY_DELAY_MS_FIRST; !this.#stopped; delay = next(delay)) {
      const outcome = await callBus(this.#options.bus, {
        subject: leaderSubject(this.#options.pool, "report"),
        request: Report,
        reply: ReportReply,
        body: report(),
        timeoutMs: REPLY_TIMEOUT_MS,
      });
      if (outcome.kind === "reply") return fromReply(outcome.value.outcome);
      this.#options.log("report not acknowledged yet", { job, why: outcome.why, delay });
      await this.#pause(delay);
    }
    return undefined;
  }

  async #pause(delayMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, delayMs);
    this.#wakers.add(resolve);
    await promise;
    this.#wakers.delete(resolve);
    clearTimeout(timer);
  }
}

function next(delay: number): number {
  return Math.min(delay * 2, RETRY_DELAY_MS_MAX);
}

function fromReply(outcome: ReportReply_Outcome): ReportOutcome {
  return outcome === ReportReply_Outcome.OUTCOME_RECORDED ? "recorded" : "stale";
}
