/**
 * Between the engine and the leader: what was placed here, under which fence, which images of it
 * are stored, and the report for each thing that happens to it.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, type ErrorRecord, fromErrorRecord, toAppError } from "@fluxline/kernel/error.ts";
import type { Clock } from "@fluxline/kernel/clock.ts";
import type { Advisory } from "@fluxline/kernel/image-request.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import { publishBus } from "@fluxline/platform/bus/request.ts";
import { groupSubject } from "@fluxline/platform/bus/topology.ts";
import { toStatus } from "@fluxline/platform/grpc/status.ts";
import {
  type Fence,
  JobProgress,
  type Report,
  Revoke_Reason,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { ImageUnit } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import {
  type ImageSpec,
  OutputFormat,
  Progress_Phase,
} from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { CheckpointPolicy } from "../core/checkpoint-policy.ts";
import type { ProgressPhase, ReleaseReason } from "../core/driver.ts";
import type { ImagePlan, Pixels } from "../core/image-model.ts";
import { generationText } from "../core/png-text.ts";
import type { BlobStore, Placement } from "./blob-store.ts";
import type { EngineListener, EngineUnit, ImageStore } from "./engine.ts";
import { encodeImage, type ImageFormat, QUALITY_DEFAULT } from "./image-file.ts";
import type { ImagePreview } from "./preview-maker.ts";
import { PreviewSender } from "./preview-sender.ts";
import type { ReportOutcome, ReportSender } from "./report-sender.ts";

/** How long a finished picture waits for NATS to come back. */
const STORE_MS_MAX = 60_000;
const STORE_AGAIN_MS = 250;
/** How long the last checkpoint of a job that is handed over does; less than a drain waits for it. */
const HAND_OVER_MS_MAX = 3_000;

export interface DeskOptions {
  readonly bus: Bus;
  readonly blobs: BlobStore;
  readonly reports: ReportSender;
  readonly modelName: string;
  readonly modelDigest: string;
  readonly numericsClass: string;
  readonly simulated: boolean;
  readonly checkpoints: CheckpointPolicy;
  readonly clock: Clock;
  readonly leaderEpoch: () => bigint;
  /** The leader holds this placement for stale: the engine drops it. */
  readonly onStale: (id: string) => void;
  readonly onDrained: () => void;
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
}

export interface PlacedJob {
  readonly fence: Fence;
  readonly spec: ImageSpec;
  /** Images of the request that were stored before this placement. */
  readonly imagesDone: number;
  readonly steps: number;
  /** Checkpoints could not be used: it begins at step 0 again. */
  readonly restarted: boolean;
  /** What its client should know of this placement. */
  readonly advisories: readonly Advisory[];
}

interface Entry extends PlacedJob {
  readonly stored: ImageUnit[];
  /** When its first work began, by the monotonic clock. */
  startedMs: number;
  /** Its last report is on its way; nothing is said after it. */
  ended: boolean;
}

type ReportEvent = NonNullable<Report["event"]>;

export class PlacementDesk implements EngineListener, ImageStore {
  readonly #options: DeskOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #previews: PreviewSender;
  /** Ends that the leader has not acknowledged yet. */
  readonly #endings = new Set<Promise<void>>();

  constructor(options: DeskOptions) {
    this.#options = options;
    this.#previews = new PreviewSender(options);
  }

  /** The id under which engine and desk know a placement's job. */
  static jobId(fence: Fence): string {
    return `${fence.tenant}/${fence.job}`;
  }

  place(job: PlacedJob): void {
    const startedMs = this.#options.clock.monotonicMs();
    const entry = { ...job, stored: [], startedMs, ended: false };
    this.#entries.set(PlacementDesk.jobId(job.fence), entry);
  }

  /** Takes back a `place` whose job could not be begun. */
  unplace(id: string): void {
    this.#entries.delete(id);
  }

  /** What is here, with what has ended and waits for the leader to acknowledge it. */
  placements(): { id: string; fence: Fence }[] {
    return [...this.#entries].map(([id, { fence }]) => ({ id, fence }));
  }

  started(id: string, advisories: readonly Advisory[]): void {
    const { numericsClass, simulated } = this.#options;
    const entry = this.#entry(id);
    const { restarted } = entry;
    entry.startedMs = this.#options.clock.monotonicMs();
    void this.#report(entry, {
      $case: "started",
      value: {
        numericsClass,
        simulated,
        restarted,
        advisories: [...entry.advisories, ...advisories],
      },
    });
  }

  progress(id: string, phase: ProgressPhase, stepsDone: number, stepsTotal: number): void {
    const { fence, imagesDone, steps } = this.#entry(id);
    const before = imagesDone * steps;
    publishBus(this.#options.bus, groupSubject(fence.pool, fence.group, "progress"), JobProgress, {
      fence,
      progress: {
        phase: progressPhases[phase],
        step: before + stepsDone,
        totalSteps: before + stepsTotal,
      },
      preview: undefined,
    });
  }

  preview(id: string, preview: ImagePreview): void {
    const entry = this.#entry(id);
    this.#previews.send(entry.fence, preview, () => !entry.ended && this.#isHere(entry));
  }

  async store(id: string, index: number, pixels: Pixels, plan: ImagePlan): Promise<void> {
    const entry = this.#entry(id);
    const { fence, spec } = entry;
    const format = formats[spec.outputFormat] ?? "png";
    const { modelName, modelDigest, simulated } = this.#options;
    const text = generationText(plan.request, { modelName, modelDigest, index, simulated });
    const quality = spec.outputQuality ?? QUALITY_DEFAULT;
    const file = await encodeImage(pixels, format, quality, text);
    const { width, height } = pixels;
    const facts = { width, height, seed: plan.request.seed };
    const unit = await this.#keepTrying(STORE_MS_MAX, () =>
      this.#options.blobs.storeImage(placementOf(fence), index, file, facts),
    );
    entry.stored.push(unit);
    if ((spec.imageCount ?? 1) > 1) {
      void this.#report(entry, { $case: "unitFinished", value: { unit } });
    }
  }

  boundary(id: string, unit: Required<EngineUnit>): void {
    const { checkpoints, clock } = this.#options;
    const entry = this.#entry(id);
    const image = imageName(entry, unit.index);
    const { byteLength } = unit.latents;
    const nowMs = clock.monotonicMs();
    if (!checkpoints.begin(image, byteLength, nowMs, entry.startedMs)) return;
    void this.#checkpoint(entry, unit).finally(() => checkpoints.ended(image));
  }

  finished(id: string): void {
    const entry = this.#entry(id);
    const units = entry.stored;
    this.#track(this.#end(entry, { $case: "finished", value: { units } }));
  }

  batchFailed(shapeKey: string, rows: number, { message, reason }: ErrorRecord): void {
    this.#options.log("batch failed", { shapeKey, rows, error: message, reason });
  }

  failed(id: string, error: ErrorRecord, blamed: boolean): void {
    this.#options.log("job failed", { id, error: error.message, reason: error.reason, blamed });
    const status = toStatus(fromErrorRecord(error));
    const { retryable } = error;
    const value = { error: status, blamed, suspect: false, retryable };
    this.#track(this.#end(this.#entry(id), { $case: "failed", value }));
  }

  released(id: string, reason: ReleaseReason, units: readonly Required<EngineUnit>[]): void {
    this.#track(this.#release(this.#entry(id), reason, units));
  }

  dropped(id: string): void {
    this.#forgetCheckpoints(this.#entry(id));
    this.#entries.delete(id);
  }

  drained(): void {
    this.#options.onDrained();
  }

  /** Hands a job back, with checkpoints unless it was cancelled. */
  async #release(
    entry: Entry,
    reason: ReleaseReason,
    units: readonly Required<EngineUnit>[],
  ): Promise<void> {
    const { fence, stored } = entry;
    const reported =
      reason === "cancelled"
        ? stoppedUnits(entry, units)
        : [...stored, ...(await this.#checkpoints(fence, units, HAND_OVER_MS_MAX))];
    await this.#end(entry, {
      $case: "released",
      value: {
        units: reported,
        reason:
          reason === "cancelled" ? Revoke_Reason.REASON_CANCELLED : Revoke_Reason.REASON_PREEMPTED,
        drained: reason === "drained",
      },
    });
  }

  /** Saves an image that goes on; the leader replaces its older checkpoint. */
  async #checkpoint(entry: Entry, unit: Required<EngineUnit>): Promise<void> {
    const units = await this.#checkpoints(entry.fence, [unit], 0);
    if (units.length === 0 || entry.ended || !this.#isHere(entry)) return;
    await this.#report(entry, { $case: "checkpointed", value: { units } });
  }

  /** `msMax`: how long a store that is away is waited for; the next boundary may do better. */
  async #checkpoints(
    fence: Fence,
    units: readonly Required<EngineUnit>[],
    msMax: number,
  ): Promise<ImageUnit[]> {
    const begun = units.filter((unit) => unit.step > 0);
    const results = await Promise.allSettled(
      begun.map(({ index, step, latents }) =>
        this.#keepTrying(msMax, () =>
          this.#options.blobs.storeCheckpoint(placementOf(fence), index, step, latents),
        ),
      ),
    );
    return results.flatMap((result) => {
      if (result.status === "fulfilled") return [result.value];
      // The job is not lost, only the steps since its last checkpoint.
      this.#options.log("checkpoint not stored", { job: fence.job, why: String(result.reason) });
      return [];
    });
  }

  /** Waits until every end is acknowledged, at most `timeoutMs`; false if some are not. */
  async settle(timeoutMs: number): Promise<boolean> {
    const all = Promise.all(this.#endings).then(() => true);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => resolve(false), timeoutMs);
    const settled = await Promise.race([all, promise]);
    clearTimeout(timer);
    return settled;
  }

  #track(ending: Promise<void>): void {
    this.#endings.add(ending);
    void ending.finally(() => this.#endings.delete(ending));
  }

  /** The last report of a placement; it is forgotten once the leader has answered. */
  async #end(entry: Entry, event: ReportEvent): Promise<void> {
    entry.ended = true;
    this.#forgetCheckpoints(entry);
    await this.#report(entry, event);
    if (this.#isHere(entry)) this.#entries.delete(PlacementDesk.jobId(entry.fence));
  }

  /** Stores again while NATS is away: the work is done, and would have to be done again. */
  async #keepTrying<T>(msMax: number, store: () => Promise<T>): Promise<T> {
    const { clock, log } = this.#options;
    const deadlineMs = clock.monotonicMs() + msMax;
    for (;;) {
      try {
        return await store();
      } catch (thrown) {
        const error = toAppError(thrown);
        if (error.code !== "unavailable" || clock.monotonicMs() >= deadlineMs) throw error;
        log("not stored yet", { error: error.message });
        await new Promise((resolve) => setTimeout(resolve, STORE_AGAIN_MS));
      }
    }
  }

  #forgetCheckpoints(entry: Entry): void {
    const { imageCount = 1 } = entry.spec;
    for (let index = 0; index < imageCount; index++) {
      this.#options.checkpoints.forget(imageName(entry, index));
    }
  }

  async #report(entry: Entry, event: ReportEvent): Promise<ReportOutcome | undefined> {
    const { fence } = entry;
    const id = PlacementDesk.jobId(fence);
    const outcome = await this.#options.reports.send(id, () => ({
      fence: { ...fence, leaderEpoch: this.#options.leaderEpoch() },
      event,
    }));
    if (outcome === "stale") {
      this.#options.log("report was stale", { id, event: event.$case, attempt: fence.attempt });
      if (this.#isHere(entry)) this.#options.onStale(id);
    }
    return outcome;
  }

  /** False once it is forgotten, or a newer attempt of the same job has taken its place. */
  #isHere(entry: Entry): boolean {
    return this.#entries.get(PlacementDesk.jobId(entry.fence)) === entry;
  }

  #entry(id: string): Entry {
    const entry = this.#entries.get(id);
    assert(entry !== undefined, `${id} is not placed here`);
    return entry;
  }
}

/** How far each image was that nobody goes on with: for people, there is nothing to resume. */
function stoppedUnits(
  { stored, steps }: Entry,
  units: readonly Required<EngineUnit>[],
): ImageUnit[] {
  const ends = [
    ...stored.map(({ index }) => ({ index, step: steps })),
    ...units.filter(({ step }) => step > 0),
  ];
  return ends.map(({ index, step }) => ImageUnit.fromPartial({ index, checkpointStep: step }));
}

function imageName({ fence }: Entry, index: number): string {
  return `${PlacementDesk.jobId(fence)}/${fence.attempt}/${index}`;
}

const progressPhases: Readonly<Record<ProgressPhase, Progress_Phase>> = {
  encoding: Progress_Phase.PHASE_ENCODING,
  denoising: Progress_Phase.PHASE_DENOISING,
  decoding: Progress_Phase.PHASE_DECODING,
  uploading: Progress_Phase.PHASE_UPLOADING,
};

const formats: Readonly<Record<number, ImageFormat>> = {
  [OutputFormat.OUTPUT_FORMAT_PNG]: "png",
  [OutputFormat.OUTPUT_FORMAT_JPEG]: "jpeg",
  [OutputFormat.OUTPUT_FORMAT_WEBP]: "webp",
};

function placementOf(fence: Fence): Placement {
  const { pool, tenant, job, attempt } = fence;
  return { pool, tenant, id: job, attempt };
}

/** The fence of a message; a message without one is of no use to anybody. */
export function requiredFence(fence: Fence | undefined): Fence {
  if (fence !== undefined) return fence;
  throw new AppError("invalid_argument", "a command without a fence", { reason: "FENCE_MISSING" });
}
