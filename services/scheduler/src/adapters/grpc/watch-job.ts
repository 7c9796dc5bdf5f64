/**
 * The changes of one job, as they come, until it has ended, and its previews between them. Who is
 * slow sees fewer changes and loses the oldest previews: they wait in a queue of their own, and a
 * full one lets the oldest go.
 */
import { AppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { Preview } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { JobMirror } from "../job-mirror.ts";
import { type JobSight, viewJob } from "./job-view.ts";

/** Queue positions change without a change of the record. */
const lookAgainMs = 1_000;
/** Without NATS nothing is heard; a watch that says nothing for longer ends with UNAVAILABLE. */
const outageMsMax = 30_000;
/** Previews that wait for one watcher. */
const previewsMax = 16;

export interface WatchOptions {
  readonly bus: Bus;
  readonly mirror: JobMirror;
  readonly key: string;
  /** Only what is newer; 0n for everything. */
  readonly after: bigint;
  readonly signal: AbortSignal;
  readonly notFound: () => AppError;
}

/** A change of the job, or a preview beside the job as it was shown last. */
export interface WatchedChange {
  readonly sight: JobSight;
  readonly preview?: Preview;
}

export async function* watchJob(options: WatchOptions): AsyncGenerator<WatchedChange> {
  const { mirror, key, signal, bus } = options;
  let last = options.after;
  let changed = Promise.withResolvers<void>();
  let outageSinceMs: number | undefined;
  const unfollow = mirror.follow(key, () => changed.resolve());
  const previews: Preview[] = [...mirror.previews.newest(key)].slice(-previewsMax);
  const unfollowPreviews = mirror.previews.follow(key, (preview) => {
    if (previews.length === previewsMax) previews.shift();
    previews.push(preview);
    changed.resolve();
  });
  const abort = () => changed.resolve();
  signal.addEventListener("abort", abort);
  try {
    for (;;) {
      signal.throwIfAborted();
      changed = Promise.withResolvers<void>();
      const mirrored = mirror.get(key);
      if (!mirrored) throw options.notFound();
      const sight = viewJob(mirror, mirrored);
      // Taken with the sight: each comes after the progress of its step.
      const waiting = previews.splice(0);
      if (sight.revision > last) {
        last = sight.revision;
        yield { sight };
      }
      if (sight.ended) return;
      for (const preview of waiting) yield { sight, preview };
      const timer = setTimeout(() => changed.resolve(), lookAgainMs);
      await changed.promise;
      clearTimeout(timer);
      outageSinceMs = bus.connected ? undefined : (outageSinceMs ?? performance.now());
      if (outageSinceMs !== undefined && performance.now() - outageSinceMs > outageMsMax) {
        throw outage();
      }
    }
  } finally {
    unfollow();
    unfollowPreviews();
    signal.removeEventListener("abort", abort);
  }
}

function outage(): AppError {
  const text = "the scheduler has no connection to NATS: watch again from the last revision";
  return new AppError("unavailable", text, { reason: "NATS_UNREACHABLE", retryAfterMs: 2_000 });
}
