/**
 * What a person sees while a job runs: a bar with the time left on a terminal, plain lines
 * elsewhere (a few, not one a step), JSON lines for machines.
 */
import type { SingleBar as Bar } from "cli-progress";
import {
  ImageJob,
  ImageJob_State,
  type Preview,
  Progress_Phase,
} from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { WrittenPreview } from "../preview-files.ts";
import { printLine, type Session } from "../session.ts";
import { durationText, Pace } from "./pace.ts";

export interface ProgressView {
  /** Something to know that is no progress of the job. */
  note(text: string): void;
  job(job: ImageJob): void;
  /** A preview came; `written` where it was kept. */
  preview(preview: Preview, written?: WrittenPreview): void;
  /** Gives the terminal back; safe to call twice. */
  end(): void;
}

const linesAPercent = 0.1;
const barUpdateMs = 100;

export async function openProgress(session: Session, json: boolean): Promise<ProgressView> {
  if (json) return jsonProgress(session);
  if (session.stderr.isTTY === true) {
    const { SingleBar, Presets } = await import("cli-progress");
    const options = {
      stream: session.stderr as NodeJS.WriteStream,
      format: "{what} {bar} {value}/{total} steps{left}{preview}",
      barsize: 30,
      clearOnComplete: true,
      hideCursor: true,
      fps: 1000 / barUpdateMs,
    };
    return barProgress(session, new SingleBar(options, Presets.shades_classic));
  }
  return lineProgress(session);
}

function jsonProgress({ stdout }: Session): ProgressView {
  return {
    note: (text) => printLine(stdout, JSON.stringify({ event: "note", text })),
    job: (job) => printLine(stdout, JSON.stringify({ event: "job", job: ImageJob.toJSON(job) })),
    preview({ index, step, width, height }, written) {
      printLine(
        stdout,
        JSON.stringify({ event: "preview", index, step, width, height, ...written }),
      );
    },
    end: () => undefined,
  };
}

function lineProgress({ stderr }: Session): ProgressView {
  const pace = new Pace();
  let lastText = "";
  let lastStep = 0;
  return {
    note: (text) => printLine(stderr, text),
    job(job) {
      const { step = 0, totalSteps = 0 } = job.progress ?? {};
      if (isStepping(job)) pace.observe(step, performance.now());
      const due = step === totalSteps || Math.abs(step - lastStep) >= totalSteps * linesAPercent;
      if (isStepping(job) && step > 0 && due) {
        lastStep = step;
        printLine(stderr, `step ${step} of ${totalSteps}${leftText(pace, totalSteps)}`);
      }
      const text = stateText(job);
      if (text === lastText) return;
      lastText = text;
      if (!isStepping(job)) printLine(stderr, text);
    },
    preview(preview, written) {
      if (written !== undefined) printLine(stderr, previewText(preview, written));
    },
    end: () => undefined,
  };
}

function barProgress({ stderr }: Session, bar: Bar): ProgressView {
  const pace = new Pace();
  let running = false;
  let previews = "";
  const end = () => {
    if (running) bar.stop();
    running = false;
  };
  return {
    note(text) {
      end();
      printLine(stderr, text);
    },
    job(job) {
      const { step = 0, totalSteps = 0 } = job.progress ?? {};
      if (totalSteps === 0) return;
      if (isStepping(job)) pace.observe(step, performance.now());
      const what = stateText(job).padEnd(10);
      const payload = { what, left: leftText(pace, totalSteps), preview: previews };
      if (running) bar.update(step, payload);
      else bar.start(totalSteps, step, payload);
      running = true;
    },
    preview(_, written) {
      if (written === undefined) return;
      previews = `, preview ${written.file}`;
      if (running) bar.update({ preview: previews });
    },
    end,
  };
}

function isStepping(job: ImageJob): boolean {
  return (
    job.state === ImageJob_State.STATE_RUNNING &&
    job.progress?.phase === Progress_Phase.PHASE_DENOISING
  );
}

function previewText({ step }: Preview, { file, number, total }: WrittenPreview): string {
  return `preview ${number} of ${total}, after step ${step}: ${file}`;
}

function leftText(pace: Pace, totalSteps: number): string {
  const remainingMs = pace.remainingMs(totalSteps);
  return remainingMs === undefined ? "" : `, ${durationText(remainingMs)} left`;
}

/** One or two words for what happens now. */
export function stateText(job: ImageJob): string {
  switch (job.state) {
    case ImageJob_State.STATE_QUEUED:
      return job.queuePosition > 0 ? `queued, ${job.queuePosition} ahead` : "queued";
    case ImageJob_State.STATE_ASSIGNED:
      return "assigned";
    case ImageJob_State.STATE_RUNNING:
      return phaseText(job.progress?.phase);
    case ImageJob_State.STATE_CANCELLING:
      return "cancelling";
    case ImageJob_State.STATE_SUCCEEDED:
      return "succeeded";
    case ImageJob_State.STATE_FAILED:
      return "failed";
    case ImageJob_State.STATE_CANCELLED:
      return "cancelled";
    case ImageJob_State.STATE_EXPIRED:
      return "expired";
    default:
      return "in a state that this program does not know";
  }
}

function phaseText(phase: Progress_Phase | undefined): string {
  switch (phase) {
    case Progress_Phase.PHASE_ENCODING:
      return "encoding";
    case Progress_Phase.PHASE_DENOISING:
      return "running";
    case Progress_Phase.PHASE_DECODING:
      return "decoding";
    case Progress_Phase.PHASE_UPLOADING:
      return "storing";
    default:
      return "running";
  }
}
