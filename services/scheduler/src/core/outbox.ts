/** What one step of the leader brings about, and the forms of its answers. */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError } from "@fluxline/kernel/error.ts";
import { sameRequest } from "./admission.ts";
import type { Asker, JobEntry } from "./job-table.ts";
import type { Effect } from "./leader-protocol.ts";

export class Outbox {
  #effects: Effect[] = [];

  take(): readonly Effect[] {
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }

  emit(effect: Effect): void {
    this.#effects.push(effect);
  }

  count(what: string, label = ""): void {
    this.emit({ kind: "count", what, label });
  }

  /**
   * The job as it stands in the store; for a report, whether it counted; for an admission, whether
   * it made the job.
   */
  answer(asker: Asker, entry: JobEntry, outcome: "recorded" | "stale", created = false): void {
    const { record, revision } = entry;
    assert(record, `job ${entry.key} has no record to answer with`);
    switch (asker.kind) {
      case "nobody":
        return;
      case "report":
        return this.emit({ kind: "reply-report", token: asker.token, outcome });
      case "cancel": {
        const found = { kind: "found", record, revision } as const;
        return this.emit({ kind: "reply-cancel", token: asker.token, outcome: found });
      }
      case "admit": {
        const same = sameRequest(record, asker.fingerprint, revision);
        const result = same.kind === "found" ? { ...same, created } : same;
        return this.emit({ kind: "reply-admit", token: asker.token, outcome: result });
      }
    }
  }

  /** There is no such job. */
  answerUnknown(asker: Asker): void {
    if (asker.kind === "report") {
      this.count("stale_reports");
      return this.emit({ kind: "reply-report", token: asker.token, outcome: "stale" });
    }
    const text = "there is no such job: it may have expired; list the jobs of the pool";
    this.answerError(asker, new AppError("not_found", text, { reason: "JOB_NOT_FOUND" }));
  }

  /** A report gets no reply then: the group sends it again. */
  answerError(asker: Asker, error: AppError): void {
    const outcome = { kind: "refused", error } as const;
    switch (asker.kind) {
      case "admit":
        return this.emit({ kind: "reply-admit", token: asker.token, outcome });
      case "cancel":
        return this.emit({ kind: "reply-cancel", token: asker.token, outcome });
      case "report":
        return this.drop(asker);
      case "nobody":
        return;
    }
  }

  /** Every question is settled, also one that gets no answer: else it is waited for for ever. */
  drop(asker: Asker): void {
    if (asker.kind !== "nobody") this.emit({ kind: "no-reply", token: asker.token });
  }
}
