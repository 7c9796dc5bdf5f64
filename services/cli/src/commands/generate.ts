/**
 * `fluxline generate`: with a server, a plain client; without one, a stack of its own in a temporary
 * folder, which is gone afterwards however the command ends.
 */
import { randomUUID } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "@fluxline/kernel/error.ts";
import { ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { GenerateImageRequest } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { exitCode, type ExitCode } from "../exit-code.ts";
import { type ImageOptions, imageSpec, readPrompt } from "../image-spec.ts";
import { unlessInterrupted } from "../interruption.ts";
import { checkOutput, chooseFormat, type ImageFormat, type OutputPlan } from "../output-file.ts";
import { writeImage } from "../output-file.ts";
import { ImageClient } from "../server/image-client.ts";
import { collectPictures, type Outcome } from "../server/picture-stream.ts";
import { printLine, type Session } from "../session.ts";
import { findNatsServer } from "../stack/nats-server.ts";
import { Stack } from "../stack/stack.ts";
import { durationText } from "../view/pace.ts";
import { openProgress, type ProgressView } from "../view/progress.ts";

/** A server that was there may be away for so long. */
const unansweredMsMax = 60_000;
const askAgainMs = 500;

export interface GenerateOptions extends ImageOptions {
  readonly server?: string;
  readonly model: string;
  readonly threads?: number;
  readonly pool?: string;
  readonly format?: ImageFormat;
  readonly output?: string;
  readonly overwrite: boolean;
  readonly json: boolean;
}

export async function generate(
  given: string,
  options: GenerateOptions,
  session: Session,
): Promise<ExitCode> {
  const format = chooseFormat(options.format, options.output);
  const prompt = await readPrompt(given, session.stdin);
  const spec = imageSpec(prompt, options, format);
  const { overwrite } = options;
  const plan: OutputPlan = { file: options.output, overwrite, format, count: options.count ?? 1 };
  checkOutput(plan);
  const begunMs = performance.now();
  const view = await openProgress(session, options.json);
  try {
    const request = { pool: options.pool ?? "", spec, requestId: randomUUID() };
    const ask = (server: string) => askUntilAnswered(server, request, view, session);
    const outcome = await (options.server === undefined
      ? withPrivateStack(options, view, session, ask)
      : ask(options.server));
    view.end();
    report(outcome, plan, performance.now() - begunMs, options.json, session);
    return exitCode.ok;
  } finally {
    view.end();
  }
}

/**
 * One request, asked again when the server goes away and comes back: the request id makes it the
 * same job, which has gone on meanwhile. The time without any server is bounded.
 */
async function askUntilAnswered(
  server: string,
  request: GenerateImageRequest,
  view: ProgressView,
  { interrupted }: Session,
): Promise<Outcome> {
  const client = new ImageClient(server);
  let heardMs: number | undefined;
  const onJob = (job: ImageJob) => {
    heardMs = performance.now();
    view.job(job);
  };
  try {
    while (true) {
      try {
        const collected = collectPictures(client.generate(request, interrupted), onJob);
        return await unlessInterrupted(interrupted, collected);
      } catch (thrown) {
        const lost = thrown instanceof AppError && thrown.code === "unavailable";
        if (!lost || heardMs === undefined) throw thrown;
        if (performance.now() - heardMs > unansweredMsMax) throw thrown;
        view.note("the server went away; asking again for the same job");
        await unlessInterrupted(interrupted, sleep(askAgainMs));
      }
    }
  } finally {
    client.close();
  }
}

/** Starts a stack in a temporary folder, works with it, and leaves nothing of it behind. */
async function withPrivateStack<T>(
  { model, threads }: GenerateOptions,
  view: ProgressView,
  session: Session,
  work: (server: string) => Promise<T>,
): Promise<T> {
  const natsServer = findNatsServer(session);
  const folder = mkdtempSync(join(tmpdir(), "fluxline-"));
  const removeFolder = () => rmSync(folder, { recursive: true, force: true });
  session.onExit(removeFolder);
  let stack: Stack | undefined;
  try {
    mkdirSync(join(folder, "logs"));
    view.note(`starting nats-server, a scheduler and a GPU node with ${model} ...`);
    const begunMs = performance.now();
    stack = await Stack.spawn({
      folder,
      logFile: (child) => join(folder, "logs", `${child}.log`),
      natsServer,
      environment: session.environment,
      natsPort: 0,
      port: 0,
      model,
      threads,
      onEvent: (event) => {
        if (event.kind === "died")
          view.note(`${event.child} died (${event.how}); starting it again`);
      },
    });
    const running = stack;
    session.onExit(() => running.kill());
    await unlessInterrupted(session.interrupted, running.untilReady());
    view.note(`ready after ${durationText(performance.now() - begunMs)}`);
    return await Promise.race([work(running.address), running.failed]);
  } finally {
    await stack?.stop();
    removeFolder();
  }
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
