/** Jobs as text for people: one in full, many as a table. */
import { type ImageJob, OutputFormat } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { durationText } from "./pace.ts";
import { stateText } from "./progress.ts";
import { textTable } from "./text-table.ts";

const promptCharsMax = 40;

export function jobTable(jobs: readonly ImageJob[], nowMs: number): string {
  if (jobs.length === 0) return "no jobs";
  const rows = jobs.map((job) => [
    job.name.split("/").at(-1) ?? job.name,
    stateText(job),
    stepsText(job),
    `${job.spec?.width ?? 0}x${job.spec?.height ?? 0}`,
    job.createTime === undefined ? "" : durationText(nowMs - job.createTime.getTime()),
    clip(job.spec?.prompt ?? ""),
  ]);
  return textTable(["job", "state", "steps", "size", "age", "prompt"], rows);
}

export function describeJob(job: ImageJob): string {
  const { spec } = job;
  const facts: [string, string | undefined][] = [
    ["job", job.name],
    ["state", stateText(job)],
    ["steps", stepsText(job)],
    ["attempts", String(job.attempt)],
    ["prompt", spec?.prompt],
    ["negative", spec?.negativePrompt],
    ["size", `${spec?.width ?? 0}x${spec?.height ?? 0}`],
    ["guidance", spec?.guidanceScale === undefined ? undefined : String(spec.guidanceScale)],
    ["seed", spec?.seed === undefined ? undefined : String(spec.seed)],
    ["images", spec?.imageCount === undefined ? undefined : String(spec.imageCount)],
    ["format", spec === undefined ? undefined : formatText(spec.outputFormat)],
    ["created", job.createTime?.toISOString()],
    ["started", job.startTime?.toISOString()],
    ["ended", job.endTime?.toISOString()],
    ["kept until", job.expireTime?.toISOString()],
    ["numerics", job.numericsClass || undefined],
    ["error", job.error?.message],
    ...job.advisories.map(({ message }): [string, string] => ["advice", message]),
    ...job.images.map((image): [string, string] => [
      `image ${image.index}`,
      `${image.contentType}, ${image.sizeBytes} bytes, sha256 ${image.sha256}`,
    ]),
  ];
  const shown = facts.filter((fact): fact is [string, string] => fact[1] !== undefined);
  return shown.map(([name, value]) => `${name.padEnd(12)}${value}`).join("\n");
}

function stepsText({ progress }: ImageJob): string {
  return progress === undefined ? "" : `${progress.step}/${progress.totalSteps}`;
}

function formatText(format: OutputFormat): string {
  switch (format) {
    case OutputFormat.OUTPUT_FORMAT_JPEG:
      return "jpeg";
    case OutputFormat.OUTPUT_FORMAT_WEBP:
      return "webp";
    default:
      return "png";
  }
}

function clip(text: string): string {
  const line = text.replaceAll(/\s+/g, " ");
  return line.length <= promptCharsMax ? line : `${line.slice(0, promptCharsMax - 1)}…`;
}
