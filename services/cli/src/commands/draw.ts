/**
 * The part of `fluxline generate` that talks to a server: asks, shows progress, writes the pictures.
 * Apart from `generate.ts`, because it loads gRPC, which has time while a private stack starts.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "@fluxline/kernel/error.ts";
import { ImageJob, type Preview } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { GenerateImageRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { type ImageOptions, imageSpec } from "../image-spec.ts";
import { unlessInterrupted } from "../interruption.ts";
import { type OutputPlan, writeImage } from "../output-file.ts";
import { PreviewFiles } from "../preview-files.ts";
import { ImageClient } from "../server/image-client.ts";
import { collectPictures, type Outcome } from "../server/picture-stream.ts";
import { printLine, type Session } from "../session.ts";
import { durationText } from "../view/pace.ts";
import { openProgress, type ProgressView } from "../view/progress.ts";

/** A server that was there may be away for so long. */
const unansweredMsMax = 60_000;
const patience = durationText(unansweredMsMax);
const askAgainMs = 500;

export interface DrawOptions extends ImageOptions {
  /** When the command began, by the monotonic clock. */
  readonly begunMs: number;
  readonly pool?: string;
  readonly previewDir?: string;
  readonly json: boolean;
}

/** Where to ask: HOST:PORT when it serves, having said what there is to say meanwhile. */
export type ServerSource = (view: ProgressView) => Promise<string>;

export async function draw(
  source: ServerSource,
  prompt: string,
  options: DrawOptions,
  plan: OutputPlan,
  session: Session,
): Promise<void> {
  const spec = imageSpec(prompt, options, plan.format);
  const request = { pool: options.pool ?? "", spec, requestId: randomUUID() };
  const view = await openProgress(session, options.json);
  try {
    const server = await source(view);
    // Machines read the name in the job itself.
    const onName = (name: string) => (options.json ? undefined : view.note(`job ${name}`));
    const files = new PreviewFiles(plan, options.previewDir);
    const onPreview = (preview: Preview, job: ImageJob) =>
      view.preview(preview, files.write(job, preview));
    const heard = { onName, onPreview };
    const outcome = await askUntilAnswered(server, request, view, heard, session);
    view.end();
    report(outcome, plan, performance.now() - options.begunMs, options.json, session);
  } finally {
    view.end();
  }
}

interface Heard {
  readonly onName: (name: string) => void;
  readonly onPreview: (preview: Preview, job: ImageJob) => void;
}

/**
 * One request, asked again when the server goes away and comes back: the request id makes it the
 * same job, which has gone on meanwhile. The time without any server is bounded.
 */
async function askUntilAnswered(
  server: string,
  request: GenerateImageRequest,
  view: ProgressView,
  { onName, onPreview }: Heard,
  { interrupted }: Session,
): Promise<Outcome> {
  const client = new ImageClient(server);
  let heardMs: number | undefined;
  let name = "";
  let away = false;
  const onJob = (job: ImageJob) => {
    heardMs = performance.now();
    away = false;
    if (name === "") onName(job.name);
    name = job.name;
    view.job(job);
  };
  try {
    while (true) {
      try {
        const collected = collectPictures(client.generate(request, interrupted), onJob, onPreview);
        return await unlessInterrupted(interrupted, collected);
      } catch (thrown) {
        const lost = thrown instanceof AppError && thrown.code === "unavailable";
        if (!lost || heardMs === undefined) throw thrown;
        if (performance.now() - heardMs > unansweredMsMax) throw goneError(name, thrown);
        if (!away) view.note(`the server went away; asking again for up to ${patience}`);
        away = true;
        await unlessInterrupted(interrupted, sleep(askAgainMs));
      }
    }
  } finally {
    client.close();
  }
}

/** The job is not lost with its client: it says how to pick it up. */
function goneError(name: string, cause: AppError): AppError {
  const pickUp = `the job goes on when the server is back: \`fluxline jobs save ${name}\``;
  return new AppError("unavailable", `${cause.message}; ${pickUp}`, {
    reason: cause.reason,
    cause,
  });
}

function report(
  { job, pictures }: Outcome,
  plan: OutputPlan,
  tookMs: number,
  json: boolean,
  { stdout, stderr }: Session,
): void {
  const seed = job.images[0]?.seed ?? job.spec?.seed ?? 0n;
  const files = pictures.map(({ index, bytes }) => writeImage(plan, index, seed, bytes));
  if (json) {
    const result = { event: "result", files, seconds: tookMs / 1000, job: ImageJob.toJSON(job) };
    return printLine(stdout, JSON.stringify(result));
  }
  for (const { message, field } of job.advisories) {
    printLine(stderr, `advice${field === "" ? "" : ` on ${field}`}: ${message}`);
  }
  if (job.simulated) printLine(stderr, "simulated: no device ran, this is no real picture");
  for (const file of files) printLine(stdout, file);
  const { width, height, numInferenceSteps } = job.spec ?? {};
  const size = `${width}x${height}, ${numInferenceSteps} steps, seed ${seed}`;
  printLine(stderr, `${size}, ${durationText(tookMs)}`);
}
