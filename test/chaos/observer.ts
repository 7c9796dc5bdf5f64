/**
 * Listens to everything that a run needs to know: writes of job records, progress, heartbeats and
 * the bytes of checkpoints as they pass through NATS. It only listens.
 */
import { appendFileSync } from "node:fs";
import { assert } from "@fluxline/kernel/assert.ts";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import { type KeyValueWatch, openKeyValue } from "@fluxline/platform/bus/key-value.ts";
import { listenBus } from "@fluxline/platform/bus/request.ts";
import {
  checkpointsStore,
  everyGroupSubject,
  jobsBucket,
} from "@fluxline/platform/bus/topology.ts";
import { Heartbeat, JobProgress } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { JobRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { ImageJob_State as State, Progress_Phase } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { JobHistory } from "./job-history.ts";
import type { Moment, Phase } from "./plan.ts";

const pool = "default";
const CONNECT_MS_MAX = 20_000;

const phases: Readonly<Record<number, Phase>> = {
  [Progress_Phase.PHASE_ENCODING]: "encoding",
  [Progress_Phase.PHASE_DENOISING]: "denoising",
  [Progress_Phase.PHASE_DECODING]: "decoding",
  [Progress_Phase.PHASE_UPLOADING]: "uploading",
};

interface Waiting {
  readonly group: string | undefined;
  readonly moment: Moment;
  readonly resolve: () => void;
}

export class Observer {
  readonly bus: Bus;
  /** By job id. */
  readonly jobs = new Map<string, JobHistory>();
  /** Residents by group, as the last heartbeat said. */
  readonly residents = new Map<string, number>();
  checkpointWrites = 0;
  #watch: KeyValueWatch | undefined;
  readonly #waiting = new Set<Waiting>();

  readonly #traceFile: string;

  private constructor(bus: Bus, traceFile: string) {
    this.bus = bus;
    this.#traceFile = traceFile;
  }

  /** Every write of a job record is noted in `traceFile`. */
  static async start(natsUrl: string, traceFile: string): Promise<Observer> {
    const name = "chaos observer";
    const bus = await connectBus({ url: natsUrl, name, firstConnectMs: CONNECT_MS_MAX });
    const observer = new Observer(bus, traceFile);
    await observer.#listen();
    return observer;
  }

  async stop(): Promise<void> {
    await this.#watch?.stop();
    await this.bus.close();
  }

  /** True when the moment came, false when it did not within the time. */
  async untilMoment(
    group: string | undefined,
    moment: Exclude<Moment, { kind: "after" }>,
    msMax: number,
  ): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const waiting = { group, moment, resolve: () => resolve(true) };
    this.#waiting.add(waiting);
    const timer = setTimeout(() => resolve(false), msMax);
    const came = await promise;
    clearTimeout(timer);
    this.#waiting.delete(waiting);
    return came;
  }

  note(text: string): void {
    appendFileSync(this.#traceFile, `${new Date().toISOString()} ${text}\n`);
  }

  history(id: string): JobHistory {
    let history = this.jobs.get(id);
    if (history === undefined) this.jobs.set(id, (history = new JobHistory(id)));
    return history;
  }

  async #listen(): Promise<void> {
    const onError = (error: Error): void => {
      throw error;
    };
    listenBus(this.bus, {
      subject: everyGroupSubject(pool, "progress"),
      message: JobProgress,
      handle: (progress) => this.#onProgress(progress),
      onError,
    });
    listenBus(this.bus, {
      subject: everyGroupSubject(pool, "heartbeat"),
      message: Heartbeat,
      handle: ({ group, residents }) => void this.residents.set(group, residents.length),
      onError,
    });
    this.bus.connection.subscribe(`$O.${checkpointsStore.name}.C.>`, {
      callback: () => this.#onCheckpointBytes(),
    });
    const jobs = await openKeyValue(this.bus, jobsBucket);
    this.#watch = jobs.watch(`${pool}.>`, (event) => {
      assert(event.kind !== "reset", "NATS lost the bucket of job records");
      if (event.kind !== "put") return;
      const record = JobRecord.decode(event.stored.value);
      this.history(record.id).onRecord(record, performance.now());
      this.note(recordText(record));
    });
  }

  #onProgress({ fence, progress }: JobProgress): void {
    if (fence === undefined || progress === undefined) return;
    const { job, attempt, group } = fence;
    this.history(job).onProgress(attempt, progress.step, performance.now());
    const phase = phases[progress.phase];
    this.#tell((waiting) => {
      if (waiting.moment.kind !== "phase" || waiting.moment.phase !== phase) return false;
      return waiting.group === undefined || waiting.group === group;
    });
  }

  #onCheckpointBytes(): void {
    this.checkpointWrites += 1;
    this.#tell(({ moment }) => moment.kind === "checkpoint");
  }

  #tell(meant: (waiting: Waiting) => boolean): void {
    for (const waiting of this.#waiting) if (meant(waiting)) waiting.resolve();
  }
}

function recordText({ id, state, attempt, group, units, leaderEpoch }: JobRecord): string {
  const steps = units.map((unit) => (unit.result === undefined ? unit.checkpointStep : "done"));
  const where = `attempt ${attempt} on ${group === "" ? "none" : group}`;
  return `${id} ${stateName(state)} ${where}, epoch ${leaderEpoch}, images at ${steps.join(", ")}`;
}

function stateName(state: State): string {
  return Object.entries(State).find(([, value]) => value === state)?.[0] ?? String(state);
}
