/**
 * A replica group on the bus: registers, sends heartbeats, takes commands, hands back on a drain.
 * Commands are judged by their fence before anything else; a refusal changes nothing.
 */
import { AppError, invalidArgument, toAppError } from "@fluxline/kernel/error.ts";
import { type Advisory, resolveRequest } from "@fluxline/kernel/image-request.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import { callBus, publishBus, type Served, serveBus } from "@fluxline/platform/bus/request.ts";
import { groupSubject, leaderSubject } from "@fluxline/platform/bus/topology.ts";
import { fromStatus, toStatus } from "@fluxline/platform/grpc/status.ts";
import { requestedImage } from "@fluxline/platform/message/image-spec.ts";
import { priorityClass } from "@fluxline/platform/message/priority.ts";
import { profileToMessage } from "@fluxline/platform/message/model-profile.ts";
import {
  Assign,
  CommandReply,
  type CommandReply as CommandReplyMessage,
  CommandReply_Outcome,
  Drain,
  type Fence,
  Heartbeat,
  type Heartbeat_StepCost,
  Registration,
  RegistrationReply,
  Revoke,
  Revoke_Reason,
} from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import type { ImageUnit } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import type { FenceGuard, PlacementFence } from "../core/fence-guard.ts";
import type { ImageModel } from "../core/image-model.ts";
import type { StepCost } from "../core/step-cost.ts";
import type { ServiceTerms } from "../core/turn.ts";
import type { BlobStore } from "./blob-store.ts";
import type { Engine, EngineUnit } from "./engine.ts";
import type { GroupDevices } from "./group-devices.ts";
import { type PlacedJob, PlacementDesk, requiredFence } from "./placement-desk.ts";

const PROTOCOL_VERSION = 1;
const HEARTBEAT_MS = 1_000;
const SHARE_DEFAULT = 1;
/** A group says again who it is, so that a new leader learns of it and it of the new leader. */
const REGISTER_AGAIN_MS = 5_000;
const REGISTER_RETRY_MS = 250;
const REGISTER_TIMEOUT_MS = 2_000;
/** The first answers are waited for less: a leader that is just taking over says nothing. */
const REGISTER_FIRST_TIMEOUT_MS = 100;

export interface AgentIdentity {
  readonly pool: string;
  readonly group: string;
  readonly incarnation: string;
  readonly numericsClass: string;
  readonly simulated: boolean;
  readonly residentsMax: number;
}

export interface AgentParts {
  readonly bus: Bus;
  readonly model: ImageModel;
  readonly engine: Engine;
  readonly devices: GroupDevices;
  readonly desk: PlacementDesk;
  readonly blobs: BlobStore;
  readonly guard: FenceGuard;
  /** The leader will not have this group any more: it must start anew. */
  readonly onRefused: (error: AppError) => void;
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
}

type Outcome = keyof typeof outcomes;
const outcomes = {
  accepted: CommandReply_Outcome.OUTCOME_ACCEPTED,
  stale: CommandReply_Outcome.OUTCOME_STALE,
  full: CommandReply_Outcome.OUTCOME_FULL,
  draining: CommandReply_Outcome.OUTCOME_DRAINING,
  refused: CommandReply_Outcome.OUTCOME_REFUSED,
};

export class BusAgent {
  readonly #identity: AgentIdentity;
  readonly #parts: AgentParts;
  readonly #served: Served[] = [];
  readonly #timers: NodeJS.Timeout[] = [];
  /** Images of assigns whose checkpoints are being read: they hold their places already. */
  #arriving = 0;
  #sequence = 0n;
  #stopped = false;

  constructor(identity: AgentIdentity, parts: AgentParts) {
    this.#identity = identity;
    this.#parts = parts;
  }

  /** Resolves once a leader has accepted the group; throws when it refuses for good. */
  async start(): Promise<void> {
    this.#serve();
    let timeoutMs = REGISTER_FIRST_TIMEOUT_MS;
    while (!this.#stopped && !(await this.#register(timeoutMs))) {
      if (timeoutMs === REGISTER_FIRST_TIMEOUT_MS) {
        this.#parts.log("waiting for a scheduler", { pool: this.#identity.pool });
      }
      await new Promise((resolve) => setTimeout(resolve, Math.min(timeoutMs, REGISTER_RETRY_MS)));
      timeoutMs = Math.min(timeoutMs * 2, REGISTER_TIMEOUT_MS);
    }
    this.#heartbeat();
    this.#timers.push(setInterval(() => this.#heartbeat(), HEARTBEAT_MS));
    this.#timers.push(setInterval(() => void this.#registerAgain(), REGISTER_AGAIN_MS));
  }

  /** Tells everyone at once that this group takes nothing new. */
  announceDrain(): void {
    this.#heartbeat();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of this.#timers) clearInterval(timer);
    await Promise.all(this.#served.map((served) => served.stop()));
  }

  #serve(): void {
    const { bus, log } = this.#parts;
    const { pool, group } = this.#identity;
    const onError = (error: AppError, subject: string): void =>
      log("a command could not be handled", { subject, error: error.message });
    const reply = CommandReply;
    this.#served.push(
      serveBus(bus, {
        subject: groupSubject(pool, group, "assign"),
        request: Assign,
        reply,
        handle: (assign) => this.#assign(assign),
        onError,
      }),
      serveBus(bus, {
        subject: groupSubject(pool, group, "revoke"),
        request: Revoke,
        reply,
        handle: (revoke) => this.#revoke(revoke),
        onError,
      }),
      serveBus(bus, {
        subject: groupSubject(pool, group, "drain"),
        request: Drain,
        reply,
        handle: (drain) => this.#drain(drain),
        onError,
      }),
    );
  }

  async #assign(assign: Assign): Promise<CommandReplyMessage> {
    const fence = requiredFence(assign.fence);
    const placement = placementFence(fence);
    const { guard, log } = this.#parts;
    const judgement = guard.judgeAssign(placement);
    if (judgement === "repeated") return answer("accepted");
    if (judgement === "stale") {
      log("stale assign refused", { job: fence.job, staleCommands: guard.staleCommands });
      return answer("stale");
    }
    const images = assign.units.length;
    const place = this.#place(placement.job, images + this.#arriving);
    if (place !== "accepted") return answer(place);
    guard.claim(placement);
    this.#arriving += images;
    let reply: CommandReplyMessage;
    try {
      reply = await this.#begin(assign, fence);
    } catch (thrown) {
      const error = toAppError(thrown);
      // What may pass must not end the job: it is placed again.
      if (error.retryable) log("assign not taken", { job: fence.job, error: error.message });
      reply = error.retryable ? answer("full") : answer("refused", error);
    }
    this.#arriving -= images;
    if (reply.outcome !== outcomes.accepted) guard.letGo(placement);
    return reply;
  }

  #place(id: string, images: number): Outcome {
    const { engine } = this.#parts;
    const admission = engine.admission(id, images);
    if (admission !== "resident") return admission;
    // The leader has given up on the attempt that still runs here; the next try finds it gone.
    engine.fence(id);
    return "full";
  }

  async #begin(assign: Assign, fence: Fence): Promise<CommandReplyMessage> {
    const { model, engine, desk, guard } = this.#parts;
    const spec = assign.spec;
    if (spec === undefined) throw new AppError("invalid_argument", "an assign without a spec");
    const resolution = resolveRequest(model.profile, requestedImage(spec), spec.seed ?? 0n);
    if (!resolution.ok) throw invalidArgument(resolution.violations, resolution.reason);
    const terms = serviceTerms(assign, fence);
    const { units, ...restart } = await this.#resume(assign);
    // Revoked, or overtaken by a newer attempt, while its checkpoints were read.
    if (!guard.holds(placementFence(fence))) return answer("stale");
    const { request } = resolution;
    const id = PlacementDesk.jobId(fence);
    const place = this.#place(id, units.length);
    if (place !== "accepted") return answer(place);
    const imagesDone = request.imageCount - units.length;
    desk.place({ fence, spec, imagesDone, steps: request.steps, ...restart });
    try {
      engine.assign({ id, request, units, alone: assign.alone, ...terms });
    } catch (thrown) {
      desk.unplace(id);
      throw thrown;
    }
    return answer("accepted");
  }

  /** Units with the latents of their checkpoints, as far as those can be used here. */
  async #resume(assign: Assign): Promise<Resumption> {
    const hasCheckpoints = assign.units.some((unit) => unit.checkpoint !== undefined);
    const units = assign.units.map(fromStart);
    if (!hasCheckpoints) return { units, restarted: false, advisories: [] };
    const { numericsClass } = this.#identity;
    if (assign.numericsClass !== numericsClass) {
      const facts = { job: assign.fence?.job, made: assign.numericsClass, here: numericsClass };
      this.#parts.log("checkpoints are of another numerics class: from step 0", facts);
      const advisories = [classChanged(assign.numericsClass, numericsClass)];
      return { units, restarted: true, advisories };
    }
    const resumed = await Promise.all(assign.units.map((unit) => this.#resumeUnit(unit)));
    const from = resumed.map(({ index, step }) => `image ${index} from step ${step}`).join(", ");
    this.#parts.log("going on from checkpoints", { job: assign.fence?.job, from });
    const restarted = resumed.some((unit, i) => unit.step < assign.units[i]!.checkpointStep);
    return { units: resumed, restarted, advisories: [] };
  }

  async #resumeUnit(unit: ImageUnit): Promise<EngineUnit> {
    if (unit.checkpoint === undefined) return fromStart(unit);
    try {
      const latents = await this.#parts.blobs.readCheckpoint(unit.checkpoint);
      return { index: unit.index, step: unit.checkpointStep, latents };
    } catch (thrown) {
      const error = toAppError(thrown);
      // The store is away, not the checkpoint: its steps are not thrown away for that.
      if (error.retryable) throw error;
      const { message } = error;
      this.#parts.log("checkpoint not usable: from step 0", { key: unit.checkpoint.key, message });
      return fromStart(unit);
    }
  }

  #revoke(revoke: Revoke): CommandReplyMessage {
    const fence = placementFence(requiredFence(revoke.fence));
    const { guard, engine } = this.#parts;
    if (guard.judgeRevoke(fence) === "stale") return answer("stale");
    const cancelled = revoke.reason === Revoke_Reason.REASON_CANCELLED;
    if (engine.admission(fence.job, 1) === "resident") {
      engine.revoke(fence.job, cancelled ? "cancelled" : "preempted");
    } else {
      // If it is still being begun, `#begin` finds that it is held no more.
      guard.letGo(fence);
    }
    return answer("accepted");
  }

  #drain(drain: Drain): CommandReplyMessage {
    if (drain.incarnation !== this.#identity.incarnation) return answer("stale");
    this.#parts.engine.drain();
    this.announceDrain();
    return answer("accepted");
  }

  /** True when a leader has accepted the group; false when none could be asked. */
  async #register(timeoutMs = REGISTER_TIMEOUT_MS): Promise<boolean> {
    const { pool, group, incarnation, numericsClass, simulated } = this.#identity;
    const outcome = await callBus(this.#parts.bus, {
      subject: leaderSubject(pool, "register"),
      request: Registration,
      reply: RegistrationReply,
      timeoutMs,
      body: {
        pool,
        group,
        incarnation,
        profile: profileToMessage(this.#parts.model.profile),
        numericsClass,
        simulated,
        maxResidents: this.#identity.residentsMax,
        protocolVersionMin: PROTOCOL_VERSION,
        protocolVersionMax: PROTOCOL_VERSION,
      },
    });
    if (outcome.kind !== "reply") return false;
    const answered = outcome.value.outcome;
    if (answered?.$case === "refused") {
      const error = fromStatus(answered.value);
      if (error.retryable) return false;
      throw error;
    }
    if (answered === undefined) return false;
    this.#parts.guard.sawLeader(answered.value.leaderEpoch);
    return true;
  }

  async #registerAgain(): Promise<void> {
    try {
      await this.#register();
    } catch (thrown) {
      this.#parts.onRefused(toAppError(thrown));
    }
  }

  /** Everything placed here; what has ended counts until the leader has acknowledged that. */
  #residents(): Heartbeat["residents"] {
    const steps = new Map(this.#parts.engine.residents().map((job) => [job.id, job]));
    return this.#parts.desk.placements().map(({ id, fence: { tenant, job, attempt } }) => {
      const { stepsDone = 0, stepsTotal = 0 } = steps.get(id) ?? {};
      return { tenant, job, attempt, step: stepsDone, totalSteps: stepsTotal };
    });
  }

  #heartbeat(): void {
    const { bus, engine, devices, guard } = this.#parts;
    const { pool, group, incarnation, numericsClass, simulated } = this.#identity;
    this.#sequence += 1n;
    publishBus(bus, groupSubject(pool, group, "heartbeat"), Heartbeat, {
      pool,
      group,
      incarnation,
      sequence: this.#sequence,
      leaderEpoch: guard.leaderEpoch,
      maxResidents: this.#identity.residentsMax,
      draining: engine.draining,
      residents: this.#residents(),
      stages: devices.health().map((stage) => ({ ...stage, rssBytes: BigInt(stage.rssBytes) })),
      stepCosts: engine.stepCosts.all().map(stepCostToMessage),
      numericsClass,
      simulated,
      protocolVersionMin: PROTOCOL_VERSION,
      protocolVersionMax: PROTOCOL_VERSION,
    });
  }
}

/** What becomes of the checkpoints that came with an assign. */
interface Resumption extends Pick<PlacedJob, "restarted" | "advisories"> {
  readonly units: EngineUnit[];
}

function classChanged(made: string, here: string): Advisory {
  const message =
    `moved from a group of numerics class ${made} to one of ${here}, whose pictures differ in ` +
    "their last bits: the images that were not finished began again from step 0";
  return { reason: "NUMERICS_CLASS_CHANGED", field: "", message };
}

function answer(outcome: Outcome, error?: AppError): CommandReplyMessage {
  return { outcome: outcomes[outcome], error: error === undefined ? undefined : toStatus(error) };
}

/** Throws INVALID_ARGUMENT for a share that is none. */
function serviceTerms(assign: Assign, { tenant }: Fence): ServiceTerms {
  const { deadline, arrivalTime } = assign;
  // A leader that is older than shares sends none.
  const share = assign.share === 0 ? SHARE_DEFAULT : assign.share;
  if (!(share > 0 && Number.isFinite(share))) {
    throw new AppError("invalid_argument", `an assign with share ${share}; it must be above 0`, {
      reason: "SHARE_INVALID",
    });
  }
  return {
    tenant,
    share,
    priorityClass: priorityClass(assign.priority) ?? "standard",
    deadlineMs: deadline?.getTime(),
    arrivalMs: arrivalTime?.getTime(),
  };
}

function fromStart(unit: ImageUnit): EngineUnit {
  return { index: unit.index, step: 0 };
}

function stepCostToMessage({ shapeKey, batches }: StepCost): Heartbeat_StepCost {
  const measured = batches.map((batch) => ({ ...batch, samples: BigInt(batch.samples) }));
  const alone = measured.find((batch) => batch.rows === 1);
  const { seconds, samples } = alone ?? { seconds: 0, samples: 0n };
  return { shapeKey, seconds, samples, batches: measured };
}

function placementFence(fence: Fence): PlacementFence {
  const { attempt, incarnation, leaderEpoch } = fence;
  return { job: PlacementDesk.jobId(fence), attempt, incarnation, leaderEpoch };
}
