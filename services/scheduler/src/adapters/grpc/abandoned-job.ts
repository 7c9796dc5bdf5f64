/**
 * The job of a client that went away: nobody else will ask for its end. Tried longer than a
 * take-over takes, and no longer than a client would.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { toAppError } from "@fluxline/kernel/error.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { jobKey } from "@fluxline/platform/bus/topology.ts";
import { isEnded } from "../../core/job.ts";
import { jobName, type JobName } from "../../core/job-name.ts";
import type { JobMirror } from "../job-mirror.ts";
import type { LeaderClient } from "../leader-client.ts";

const triesEveryMs = 1_000;
const triesForMs = 60_000;

export interface AbandonedJobOptions {
  readonly leader: Pick<LeaderClient, "cancel">;
  readonly mirror: Pick<JobMirror, "get">;
  readonly tenant: string;
  readonly log: Logger;
  readonly everyMs?: number;
  readonly forMs?: number;
}

/** Resolves once the leader has answered, the job has ended, or it was tried for long enough. */
export async function cancelAbandoned(name: JobName, options: AbandonedJobOptions): Promise<void> {
  const { leader, mirror, tenant, log, everyMs = triesEveryMs, forMs = triesForMs } = options;
  const job = jobName(name);
  const untilMs = performance.now() + forMs;
  for (let attempt = 1; ; attempt++) {
    try {
      await leader.cancel(name.pool, tenant, name.id);
      return log.info({ job, attempt }, "job of a client that left: cancel recorded");
    } catch (thrown) {
      const error = toAppError(thrown);
      if (error.code === "not_found") return log.info({ job }, "job of a client that left: none");
      const record = mirror.get(jobKey({ ...name, tenant }))?.record;
      if (record && isEnded(record.state)) return;
      if (performance.now() >= untilMs) {
        return log.error({ job, attempt, error }, "job of a client that left: it runs on");
      }
      log.warn({ job, attempt, error }, "job of a client that left not cancelled yet");
    }
    await sleep(everyMs);
  }
}
