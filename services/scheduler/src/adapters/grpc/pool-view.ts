/** A pool as the public API shows it. */
import { PREVIEW_COUNT_MAX } from "@fluxline/kernel/image-previews.ts";
import { pixelsAllowed } from "@fluxline/kernel/memory-fit.ts";
import { profileFromMessage } from "@fluxline/platform/message/model-profile.ts";
import type { Pool } from "@fluxline/proto/fluxline/v1/pool.ts";
import { poolName } from "../../core/job-name.ts";
import type { JobMirror } from "../job-mirror.ts";
import type { KnownPool, PoolDirectory } from "../pool-directory.ts";

export function viewPool(
  known: KnownPool,
  directory: PoolDirectory,
  mirror: JobMirror,
  queuedJobsMax: number,
): Pool {
  const { pool, profile, simulated } = known;
  const counts = mirror.counts(pool);
  return {
    name: poolName(pool),
    model: {
      name: profile.name,
      family: profile.family,
      digest: profile.digest,
      guidanceEmbedded: profile.guidanceEmbedded,
    },
    limits: {
      sizeMultiple: profile.sizeMultiple,
      minSize: profile.minSize,
      maxSize: profile.maxSize,
      maxPixels: BigInt(pixelsAllowed(profileFromMessage(profile))),
      minSteps: profile.minSteps,
      maxSteps: profile.maxSteps,
      maxGuidanceScale: profile.maxGuidance,
      maxSequenceLength: profile.maxSequenceLengthMax,
      maxImageCount: profile.maxImageCount,
      maxPromptBytes: profile.maxPromptBytes,
      maxPreviewCount: PREVIEW_COUNT_MAX,
    },
    defaults: {
      width: profile.defaultWidth,
      height: profile.defaultHeight,
      numInferenceSteps: profile.defaultSteps,
      guidanceScale: profile.defaultGuidance,
      maxSequenceLength: profile.defaultMaxSequenceLength,
    },
    modes: ["text-to-image"],
    queue: {
      queuedJobs: counts.queued,
      activeJobs: counts.active,
      groups: directory.groups(pool),
      maxQueuedJobs: queuedJobsMax,
    },
    simulated,
  };
}
