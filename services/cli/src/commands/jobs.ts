/** `fluxline jobs`: list, get, cancel, watch and save the jobs of a server. */
import { setTimeout as sleep } from "node:timers/promises";
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";
import { ImageJob, ImageJob_State, type Preview } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { exitCode, type ExitCode } from "../exit-code.ts";
import { unlessInterrupted } from "../interruption.ts";
import { checkValues } from "../failure.ts";
import { PreviewFiles } from "../preview-files.ts";
import { checkServer } from "../server/address.ts";
import { ImageClient } from "../server/image-client.ts";
import {
  checkFolder,
  checkOutput,
  chooseFormat,
  type ImageFormat,
  imageFormats,
  writeImage,
} from "../output-file.ts";
import { readPictures, throwUnlessSucceeded } from "../server/picture-stream.ts";
import { printLine, type Session } from "../session.ts";
import { describeJob, jobTable } from "../view/job-view.ts";
import { openProgress, type ProgressView } from "../view/progress.ts";

export interface JobsOptions {
  readonly server: string;
  readonly pool?: string;
  readonly json: boolean;
}

export const stateNames = [
  "queued",
  "assigned",
  "running",
  "cancelling",
  "succeeded",
  "failed",
  "cancelled",
  "expired",
] as const;
export type StateName = (typeof stateNames)[number];

const pageSizeMax = 1000;
const watchRetriesMax = 5;
const watchRetryMs = 500;

export async function listJobs(
  options: JobsOptions & { readonly limit: number; readonly state?: StateName },
  session: Session,
): Promise<ExitCode> {
  return withClient(options, session, async (client) => {
    const pool = options.pool ?? (await onlyPool(client));
    const states = options.state === undefined ? [] : [stateNumber(options.state)];
    const jobs: ImageJob[] = [];
    let pageToken = "";
    do {
      const pageSize = Math.min(pageSizeMax, options.limit - jobs.length);
      const page = await client.listJobs({ pool, pageSize, pageToken, states });
      jobs.push(...page.jobs);
      pageToken = page.nextPageToken;
    } while (pageToken !== "" && jobs.length < options.limit);
    const text = options.json
      ? JSON.stringify({ jobs: jobs.map((job) => ImageJob.toJSON(job)), more: pageToken !== "" })
      : jobTable(jobs, Date.now());
    printLine(session.stdout, text);
    if (pageToken !== "" && !options.json) printLine(session.stderr, "there are more: use --limit");
    return exitCode.ok;
  });
}

export async function getJob(
  name: string,
  options: JobsOptions,
  session: Session,
): Promise<ExitCode> {
  return withClient(options, session, async (client) => {
    printJob(await client.getJob(await fullName(client, name, options)), options, session);
    return exitCode.ok;
  });
}

export async function cancelJob(
  name: string,
  options: JobsOptions,
  session: Session,
): Promise<ExitCode> {
  return withClient(options, session, async (client) => {
    const job = await client.cancelJob(await fullName(client, name, options));
    printJob(job, options, session);
    const ends = [ImageJob_State.STATE_CANCELLING, ImageJob_State.STATE_CANCELLED] as const;
    if (!ends.some((state) => state === job.state)) {
      printLine(session.stderr, "it had ended already: nothing was cancelled");
    }
    return exitCode.ok;
  });
}

/** Writes the pictures of a job that has succeeded, also one that another client asked for. */
export async function saveJob(
  name: string,
  options: JobsOptions & { readonly output?: string; readonly overwrite: boolean },
  session: Session,
): Promise<ExitCode> {
  return withClient(options, session, async (client) => {
    const job = await client.getJob(await fullName(client, name, options));
    if (job.state < ImageJob_State.STATE_SUCCEEDED) {
      const text = `${job.name} has not ended; follow it with \`fluxline jobs watch\``;
      throw new AppError("failed_precondition", text, { reason: "JOB_NOT_ENDED" });
    }
    throwUnlessSucceeded(job);
    const format = chooseFormat(formatOf(job), options.output);
    const { output: file, overwrite, json } = options;
    const plan = { file, overwrite, format, count: job.images.length };
    checkOutput(plan);
    const read = (index: number) => client.readImage(job.name, index, session.interrupted);
    const seed = job.spec?.seed ?? 0n;
    const pictures = await readPictures(job, read);
    const files = pictures.map(({ index, bytes }) => writeImage(plan, index, seed, bytes));
    if (json) printLine(session.stdout, JSON.stringify({ files }));
    else for (const each of files) printLine(session.stdout, each);
    return exitCode.ok;
  });
}

function formatOf(job: ImageJob): ImageFormat {
  const type = job.images[0]?.contentType ?? "";
  return imageFormats.find((format) => type === `image/${format}`) ?? "png";
}

/** Follows a job to its end; a connection that breaks is taken up again where it was. */
export async function watchJob(
  name: string,
  options: JobsOptions & { readonly previewDir?: string },
  session: Session,
): Promise<ExitCode> {
  const { previewDir } = options;
  if (previewDir !== undefined) await checkValues(() => checkFolder("--preview-dir", previewDir));
  return withClient(options, session, async (client) => {
    const job = await fullName(client, name, options);
    const view = await openProgress(session, options.json);
    const files = previewDir === undefined ? undefined : new PreviewFiles(undefined, previewDir);
    const onPreview = (preview: Preview, watched: ImageJob) =>
      view.preview(preview, files?.write(watched, preview));
    try {
      const last = await follow(client, job, view, onPreview, session.interrupted);
      view.end();
      if (!options.json) printLine(session.stdout, describeJob(last));
      throwUnlessSucceeded(last);
      return exitCode.ok;
    } finally {
      view.end();
    }
  });
}

async function follow(
  client: ImageClient,
  name: string,
  view: ProgressView,
  onPreview: (preview: Preview, job: ImageJob) => void,
  signal: AbortSignal,
): Promise<ImageJob> {
  let revision = 0n;
  let last: ImageJob | undefined;
  for (let failures = 0; ;) {
    try {
      for await (const event of client.watch(name, revision, signal)) {
        failures = 0;
        revision = event.revision;
        if (event.job === undefined) continue;
        last = event.job;
        if (event.preview === undefined) view.job(last);
        else onPreview(event.preview, last);
      }
      if (last !== undefined) return last;
      throw new AppError("internal", `the server ended the watch of ${name} without the job`);
    } catch (thrown) {
      const retryable = thrown instanceof AppError && thrown.code === "unavailable";
      if (!retryable || ++failures > watchRetriesMax || signal.aborted) throw thrown;
      view.note("the connection broke; watching on");
      await sleep(watchRetryMs * failures);
    }
  }
}

async function withClient(
  { server }: JobsOptions,
  { interrupted }: Session,
  work: (client: ImageClient) => Promise<ExitCode>,
): Promise<ExitCode> {
  await checkValues(() => checkServer(server));
  const client = new ImageClient(server);
  try {
    return await unlessInterrupted(interrupted, work(client));
  } finally {
    client.close();
  }
}

function printJob(job: ImageJob, { json }: JobsOptions, { stdout }: Session): void {
  printLine(stdout, json ? JSON.stringify(ImageJob.toJSON(job)) : describeJob(job));
}

/** `pools/<pool>/jobs/<id>` as it is, or the id alone for a server with one pool. */
async function fullName(client: ImageClient, name: string, { pool }: JobsOptions): Promise<string> {
  if (name.includes("/")) return name;
  return `pools/${pool ?? (await onlyPool(client))}/jobs/${name}`;
}

async function onlyPool(client: ImageClient): Promise<string> {
  const names = (await client.listPools()).map(({ name }) => name.replace(/^pools\//, ""));
  const [first] = names;
  if (names.length === 1 && first !== undefined) return first;
  const description =
    names.length === 0
      ? "the server has no pool yet; wait until a GPU node has come"
      : `is missing, and the server has several; use one of ${names.join(", ")}`;
  throw invalidArgument([{ field: "--pool", description }], "POOL_NOT_NAMED");
}

function stateNumber(name: StateName): ImageJob_State {
  return ImageJob_State[`STATE_${name.toUpperCase() as Uppercase<StateName>}`];
}
