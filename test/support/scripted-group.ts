/**
 * A peer that speaks the bus protocol of a replica group, for tests of the scheduler only: it
 * makes no pictures. What it "draws" are a few bytes that name the job and the attempt.
 */
import { createHash } from "node:crypto";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import { type Objects, openObjects } from "@fluxline/platform/bus/object-store.ts";
import { callBus, publishBus, serveBus, type Served } from "@fluxline/platform/bus/request.ts";
import {
  groupSubject,
  leaderSubject,
  resultKey,
  resultsStore,
} from "@fluxline/platform/bus/topology.ts";
import {
  Assign,
  CommandReply,
  CommandReply_Outcome,
  type Fence,
  Heartbeat,
  JobProgress,
  Registration,
  RegistrationReply,
  Report,
  ReportReply,
  ReportReply_Outcome,
  Revoke,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { ImageUnit, type ModelProfile } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { Progress_Phase } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { until } from "./until.ts";

export const testProfile: ModelProfile = {
  family: "flux1",
  name: "scripted",
  digest: "0".repeat(64),
  sizeMultiple: 16,
  minSize: 16,
  maxSize: 2048,
  maxPixels: 2048n * 2048n,
  defaultWidth: 64,
  defaultHeight: 64,
  minSteps: 1,
  maxSteps: 200,
  defaultSteps: 4,
  guidanceEmbedded: true,
  defaultGuidance: 3.5,
  maxGuidance: 100,
  defaultMaxSequenceLength: 64,
  maxSequenceLengthMax: 512,
  maxImageCount: 4,
  maxPromptBytes: 16_384,
  memory: [],
  advice: { stepsLow: 3 },
};

export interface ScriptedGroupOptions {
  readonly pool?: string;
  readonly group?: string;
  readonly incarnation?: string;
  readonly residentsMax?: number;
  readonly stepMs?: number;
  /** Of its model. */
  readonly digest?: string;
  /** What its devices have memory for; nothing is said unless given. */
  readonly memory?: ModelProfile["memory"];
  /** Bytes of each image. */
  readonly imageBytes?: number;
  /** `hold` accepts and reports the start, then waits for `finish`. */
  readonly mode?: "work" | "hold";
}

interface Resident {
  readonly assign: Assign;
  readonly fence: Fence;
  step: number;
  stopped: boolean;
}

export class ScriptedGroup {
  readonly bus: Bus;
  readonly pool: string;
  readonly group: string;
  incarnation: string;
  readonly assigns: Assign[] = [];
  readonly revokes: Revoke[] = [];
  readonly residents = new Map<string, Resident>();
  readonly #options: ScriptedGroupOptions;
  readonly #served: Served[] = [];
  #results: Objects | undefined;
  #timer: NodeJS.Timeout | undefined;
  #sequence = 0n;
  #work: Promise<unknown>[] = [];
  /** What the next assign is answered with, instead of being accepted. */
  nextOutcome: CommandReply_Outcome | "silence" | undefined;
  #ended = false;

  constructor(bus: Bus, options: ScriptedGroupOptions = {}) {
    this.bus = bus;
    this.#options = options;
    this.pool = options.pool ?? "default";
    this.group = options.group ?? "g0";
    this.incarnation = options.incarnation ?? `i${Date.now()}`;
  }

  async start(): Promise<void> {
    const onError = (error: Error) => {
      throw error;
    };
    this.#served.push(
      serveBus(this.bus, {
        subject: groupSubject(this.pool, this.group, "assign"),
        request: Assign,
        reply: CommandReply,
        handle: (assign) => this.#onAssign(assign),
        onError,
      }),
      serveBus(this.bus, {
        subject: groupSubject(this.pool, this.group, "revoke"),
        request: Revoke,
        reply: CommandReply,
        handle: (revoke) => this.#onRevoke(revoke),
        onError,
      }),
    );
    await until(async () => (await this.register())?.outcome?.$case === "accepted", 20_000);
    this.#results = await openObjects(this.bus, resultsStore);
    this.beat();
    this.#timer = setInterval(() => {
      this.beat();
      // A leader learns only so which model it serves.
      if (this.#sequence % 2n === 0n) void this.register();
    }, 1_000);
  }

  async register(): Promise<RegistrationReply | undefined> {
    const outcome = await callBus(this.bus, {
      subject: leaderSubject(this.pool, "register"),
      request: Registration,
      reply: RegistrationReply,
      body: Registration.fromPartial({
        pool: this.pool,
        group: this.group,
        incarnation: this.incarnation,
        profile: {
          ...testProfile,
          digest: this.#options.digest ?? testProfile.digest,
          memory: this.#options.memory ?? testProfile.memory,
        },
        numericsClass: "scripted",
        maxResidents: this.#options.residentsMax ?? 4,
        protocolVersionMin: 1,
        protocolVersionMax: 1,
      }),
      timeoutMs: 1_000,
    });
    return outcome.kind === "reply" ? outcome.value : undefined;
  }

  beat(): void {
    const residents = [...this.residents.values()].map(({ fence, step }) => ({
      tenant: fence.tenant,
      job: fence.job,
      attempt: fence.attempt,
      step,
      totalSteps: 0,
    }));
    publishBus(
      this.bus,
      groupSubject(this.pool, this.group, "heartbeat"),
      Heartbeat,
      Heartbeat.fromPartial({
        pool: this.pool,
        group: this.group,
        incarnation: this.incarnation,
        sequence: ++this.#sequence,
        maxResidents: this.#options.residentsMax ?? 4,
        numericsClass: "scripted",
        residents,
        protocolVersionMin: 1,
        protocolVersionMax: 1,
      }),
    );
  }

  /** As a crash: says nothing more and answers nothing. What was under way stops. */
  async crash(): Promise<void> {
    this.#ended = true;
    clearInterval(this.#timer);
    for (const resident of this.residents.values()) resident.stopped = true;
    this.residents.clear();
    await Promise.all(this.#served.splice(0).map((served) => served.stop()));
    await Promise.allSettled(this.#work);
  }

  /** Reports, again and again until the leader answers. */
  async report(fence: Fence, event: Report["event"]): Promise<ReportReply_Outcome | undefined> {
    for (;;) {
      const outcome = await callBus(this.bus, {
        subject: leaderSubject(this.pool, "report"),
        request: Report,
        reply: ReportReply,
        body: { fence, event },
        timeoutMs: 1_000,
      });
      if (outcome.kind === "reply") return outcome.value.outcome;
      if (this.#ended) return undefined;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Stores the images of a job that is held and reports its end. */
  async finish(job: string): Promise<ReportReply_Outcome | undefined> {
    const resident = this.residents.get(job);
    if (!resident) throw new Error(`${job} is not resident`);
    return this.#finish(resident);
  }

  async #onAssign(assign: Assign): Promise<CommandReply | undefined> {
    this.assigns.push(assign);
    const { fence } = assign;
    if (!fence || fence.incarnation !== this.incarnation) {
      return { outcome: CommandReply_Outcome.OUTCOME_STALE, error: undefined };
    }
    const outcome = this.nextOutcome;
    this.nextOutcome = undefined;
    if (outcome === "silence") return undefined;
    if (outcome !== undefined) return { outcome, error: undefined };
    const resident = { assign, fence, step: 0, stopped: false };
    this.residents.set(fence.job, resident);
    this.#work.push(this.#run(resident));
    return { outcome: CommandReply_Outcome.OUTCOME_ACCEPTED, error: undefined };
  }

  #onRevoke(revoke: Revoke): CommandReply {
    this.revokes.push(revoke);
    const resident = this.residents.get(revoke.fence?.job ?? "");
    if (!resident || resident.fence.attempt !== revoke.fence?.attempt) {
      return { outcome: CommandReply_Outcome.OUTCOME_STALE, error: undefined };
    }
    resident.stopped = true;
    this.#work.push(this.#release(resident, revoke));
    return { outcome: CommandReply_Outcome.OUTCOME_ACCEPTED, error: undefined };
  }

  async #release(resident: Resident, revoke: Revoke): Promise<void> {
    const stopped = { index: 0, checkpointStep: resident.step };
    const units = resident.step > 0 ? [ImageUnit.fromPartial(stopped)] : [];
    const released = { units, reason: revoke.reason, drained: false };
    await this.report(resident.fence, { $case: "released", value: released });
    this.residents.delete(resident.fence.job);
  }

  async #run(resident: Resident): Promise<void> {
    const { fence, assign } = resident;
    const started = {
      numericsClass: "scripted",
      simulated: false,
      restarted: false,
      advisories: [],
    };
    const heard = await this.report(fence, { $case: "started", value: started });
    if (heard !== ReportReply_Outcome.OUTCOME_RECORDED) return this.#drop(resident);
    if (this.#options.mode === "hold") return;
    const steps = (assign.spec?.numInferenceSteps ?? 1) * assign.units.length;
    while (resident.step < steps) {
      await new Promise((resolve) => setTimeout(resolve, this.#options.stepMs ?? 5));
      if (resident.stopped) return;
      resident.step += 1;
      this.#progress(resident, steps);
    }
    await this.#finish(resident);
  }

  #progress({ fence, step }: Resident, totalSteps: number): void {
    const progress = { phase: Progress_Phase.PHASE_DENOISING, step, totalSteps };
    const subject = groupSubject(this.pool, this.group, "progress");
    publishBus(this.bus, subject, JobProgress, { fence, progress, preview: undefined });
  }

  async #finish(resident: Resident): Promise<ReportReply_Outcome | undefined> {
    const { assign, fence } = resident;
    const units: ImageUnit[] = [];
    for (const { index } of assign.units) units.push(await this.#store(assign, fence, index));
    const heard = await this.report(fence, { $case: "finished", value: { units } });
    this.#drop(resident);
    return heard;
  }

  async #store(assign: Assign, fence: Fence, index: number): Promise<ImageUnit> {
    if (!this.#results) throw new Error("not started");
    const job = { pool: fence.pool, tenant: fence.tenant, id: fence.job };
    const key = resultKey(job, fence.attempt, index);
    const bytes = imageBytes(key, this.#options.imageBytes ?? 300_000);
    const { sha256, sizeBytes } = await this.#results.put(key, bytes);
    return {
      index,
      checkpoint: undefined,
      checkpointStep: 0,
      result: { bucket: resultsStore.name, key, sizeBytes: BigInt(sizeBytes), sha256 },
      image: {
        index,
        width: assign.spec?.width ?? 0,
        height: assign.spec?.height ?? 0,
        contentType: "image/png",
        sizeBytes: BigInt(sizeBytes),
        sha256,
        seed: assign.spec?.seed ?? 0n,
      },
    };
  }

  #drop(resident: Resident): void {
    if (this.residents.get(resident.fence.job) === resident) {
      this.residents.delete(resident.fence.job);
    }
  }
}

/** Bytes that follow from the key. */
export function imageBytes(key: string, length: number): Buffer {
  const seed = createHash("sha256").update(key).digest();
  return Buffer.from(Uint8Array.from({ length }, (_, i) => (seed[i % 32] ?? 0) ^ (i & 255)));
}
