/** What a watch tells of progress and previews, by the mirror of a bucket and a bus in memory. */
import { AppError } from "@fluxline/kernel/error.ts";
import { PREVIEW_BYTES_MAX } from "@fluxline/kernel/image-previews.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue, WatchEvent } from "@fluxline/platform/bus/key-value.ts";
import { createLog } from "@fluxline/platform/log.ts";
import { JobProgress } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { ImageSpec } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { describe, expect, test } from "vitest";
import type { JobRecord } from "../../core/job.ts";
import { buildRecord, testPlacement } from "../../core/job-builder.ts";
import { JobMirror } from "../job-mirror.ts";
import { encodeRecord } from "../record-codec.ts";
import { watchJob, type WatchedChange } from "./watch-job.ts";

const key = "p.default.job1";
const STEPS = 40;

/** One job that runs, and what its group says of it. */
class Running {
  readonly #mirror: JobMirror;
  readonly #bus: Bus;
  #revision = 0;
  #tell: (event: WatchEvent) => void = () => {};
  #say: (error: null, message: { data: Uint8Array; subject: string }) => void = () => {};

  constructor() {
    const kv: Pick<KeyValue, "watch"> = {
      watch: (_filter, onEvent) => {
        this.#tell = onEvent;
        return { stop: async () => {} } as ReturnType<KeyValue["watch"]>;
      },
    };
    const subscribe = (_subject: string, { callback }: { callback: never }) => {
      this.#say = callback;
      return { isClosed: () => true };
    };
    this.#bus = { connection: { subscribe }, connected: true } as unknown as Bus;
    this.#mirror = new JobMirror(this.#bus, kv as KeyValue, createLog("test", "silent"));
    this.record({});
  }

  record(change: Partial<JobRecord>): void {
    const spec = ImageSpec.fromPartial({ prompt: "p", numInferenceSteps: STEPS });
    const record = buildRecord({ spec, state: "running", ...testPlacement, ...change });
    const stored = { value: encodeRecord(record), revision: ++this.#revision };
    this.#tell({ kind: "put", key, stored });
  }

  #progress(message: object, attempt: bigint): void {
    const fence = { pool: "p", tenant: "default", job: "job1", ...testPlacement, attempt };
    const data = JobProgress.encode(JobProgress.fromPartial({ fence, ...message })).finish();
    this.#say(null, { data, subject: "fl.v1.p.g0.progress" });
  }

  step(step: number): void {
    this.#progress({ progress: { phase: 2, step, totalSteps: STEPS } }, 1n);
  }

  preview(index: number, step: number, { attempt = 1n, bytes = 8 } = {}): void {
    const content = Buffer.alloc(bytes, step);
    this.#progress({ preview: { index, step, content, contentType: "image/png" } }, attempt);
  }

  watch(after = 0n): AsyncGenerator<WatchedChange> {
    const notFound = () => new AppError("not_found", "gone");
    const { signal } = new AbortController();
    return watchJob({ bus: this.#bus, mirror: this.#mirror, key, after, signal, notFound });
  }

  end(): void {
    this.record({ state: "cancelled", endTimeMs: 2_000 });
  }
}

/** `3` for progress, `p3` for a preview of image 0 after step 3, `end` for the last event. */
function name({ sight, preview }: WatchedChange): string {
  if (preview) return `p${preview.index === 0 ? "" : `${preview.index}:`}${preview.step}`;
  return sight.ended ? "end" : String(sight.job.progress?.step);
}

async function next(watch: AsyncGenerator<WatchedChange>): Promise<string> {
  const { value } = await watch.next();
  return value ? name(value as WatchedChange) : "over";
}

async function rest(watch: AsyncGenerator<WatchedChange>): Promise<string[]> {
  const names: string[] = [];
  for await (const change of watch) names.push(name(change));
  return names;
}

describe("a watch", () => {
  test("tells each preview between the progress of its step and the next", async () => {
    const job = new Running();
    const watch = job.watch();
    const heard = [await next(watch)];
    for (const [say, step] of [
      ["step", 1],
      ["step", 2],
      ["preview", 2],
      ["step", 3],
    ] as const) {
      if (say === "step") job.step(step);
      else job.preview(0, step);
      heard.push(await next(watch));
    }
    job.end();
    expect([...heard, ...(await rest(watch))]).toEqual(["0", "1", "2", "p2", "3", "end"]);
  });

  test("that begins late starts with the newest preview of each image", async () => {
    const job = new Running();
    job.step(9);
    for (const [index, step] of [
      [1, 4],
      [0, 3],
      [0, 6],
    ] as const)
      job.preview(index, step);
    const watch = job.watch();
    expect([await next(watch), await next(watch), await next(watch)]).toEqual(["9", "p6", "p1:4"]);
  });

  test("of a slow client loses the oldest previews, and holds nothing up", async () => {
    const job = new Running();
    const watch = job.watch();
    expect(await next(watch)).toBe("0");
    for (let step = 1; step <= 30; step++) {
      job.step(step);
      job.preview(0, step);
    }
    const heard = [await next(watch)];
    for (let i = 0; i < 16; i++) heard.push(await next(watch));
    const kept = Array.from({ length: 16 }, (_, i) => `p${i + 15}`);
    expect(heard).toEqual(["30", ...kept]);
    job.end();
    expect(await rest(watch)).toEqual(["end"]);
  });

  test("repeats no revision for a preview, and goes on from one without losing a change", async () => {
    const job = new Running();
    job.step(5);
    job.preview(0, 5);
    const watch = job.watch();
    const [first, second] = [await watch.next(), await watch.next()];
    const { sight, preview } = second.value as WatchedChange;
    expect(preview?.step).toBe(5);
    expect(sight).toEqual((first.value as WatchedChange).sight);
    job.step(6);
    expect(await next(job.watch(sight.revision))).toBe("6");
  });

  test("tells no preview of an earlier attempt, none that is too large, none after the end", async () => {
    const job = new Running();
    job.preview(0, 1);
    job.record({ attempt: 2n });
    job.preview(0, 2, { attempt: 1n });
    job.preview(0, 3, { attempt: 2n, bytes: PREVIEW_BYTES_MAX + 1 });
    const watch = job.watch();
    expect(await next(watch)).toBe("0");
    job.preview(0, 4, { attempt: 2n, bytes: PREVIEW_BYTES_MAX });
    expect(await next(watch)).toBe("p4");
    job.preview(0, 5, { attempt: 2n });
    job.end();
    expect(await rest(watch)).toEqual(["end"]);
    expect(await rest(job.watch())).toEqual(["end"]);
  });
});
