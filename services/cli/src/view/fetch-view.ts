/**
 * What a person sees while a model is fetched: a bar with bytes, rate and the time left on a
 * terminal, a few plain lines elsewhere, JSON lines for machines.
 */
import { printLine, type Session } from "../session.ts";
import { byteText } from "./byte-text.ts";
import { durationText, Pace } from "./pace.ts";

export interface FetchView {
  /** `doneBytes` of `totalBytes`, which begin anew when something else is fetched. */
  progress(doneBytes: number, totalBytes: number): void;
  note(text: string): void;
  /** Gives the terminal back; safe to call twice. */
  end(): void;
}

const barUpdateMs = 100;
const lineEveryMs = 10_000;

/** `what` is one word: fetching, verifying. */
export async function openFetchView(
  what: string,
  session: Session,
  json: boolean,
): Promise<FetchView> {
  if (json) return jsonView(what, session);
  return session.stderr.isTTY === true ? barView(what, session) : lineView(what, session);
}

/** `1.2 GiB of 4.0 GiB, 85.0 MiB/s, 34 s left`. */
export function fetchText(doneBytes: number, totalBytes: number, pace: Pace): string {
  const remainingMs = pace.remainingMs(totalBytes);
  const rate = pace.perSecond;
  const parts = [`${byteText(doneBytes)} of ${byteText(totalBytes)}`];
  if (rate !== undefined) parts.push(`${byteText(Math.round(rate))}/s`);
  if (remainingMs !== undefined && doneBytes < totalBytes) {
    parts.push(`${durationText(remainingMs)} left`);
  }
  return parts.join(", ");
}

function jsonView(what: string, { stdout }: Session): FetchView {
  const say = (event: object) => printLine(stdout, JSON.stringify(event));
  return {
    progress: (doneBytes, totalBytes) => say({ event: what, doneBytes, totalBytes }),
    note: (text) => say({ event: "note", text }),
    end: () => undefined,
  };
}

function lineView(what: string, { stderr }: Session): FetchView {
  const pace = new Pace();
  let toldMs = Number.NEGATIVE_INFINITY;
  let toldBytes = -1;
  return {
    progress(doneBytes, totalBytes) {
      const nowMs = performance.now();
      pace.observe(doneBytes, nowMs);
      const isLast = doneBytes === totalBytes && toldBytes !== doneBytes;
      if (totalBytes === 0 || (nowMs - toldMs < lineEveryMs && !isLast)) return;
      [toldMs, toldBytes] = [nowMs, doneBytes];
      printLine(stderr, `${what} ${fetchText(doneBytes, totalBytes, pace)}`);
    },
    note: (text) => printLine(stderr, text),
    end: () => undefined,
  };
}

async function barView(what: string, { stderr }: Session): Promise<FetchView> {
  const { SingleBar, Presets } = await import("cli-progress");
  const options = {
    stream: stderr as NodeJS.WriteStream,
    format: "{what} {bar} {text}",
    barsize: 30,
    clearOnComplete: true,
    hideCursor: true,
    fps: 1000 / barUpdateMs,
  };
  const bar = new SingleBar(options, Presets.shades_classic);
  const pace = new Pace();
  let running = false;
  const end = () => {
    if (running) bar.stop();
    running = false;
  };
  return {
    progress(doneBytes, totalBytes) {
      if (totalBytes === 0) return;
      pace.observe(doneBytes, performance.now());
      const payload = { what, text: fetchText(doneBytes, totalBytes, pace) };
      if (running && bar.getTotal() === totalBytes) return bar.update(doneBytes, payload);
      end();
      bar.start(totalBytes, doneBytes, payload);
      running = true;
    },
    note(text) {
      end();
      printLine(stderr, text);
    },
    end,
  };
}
