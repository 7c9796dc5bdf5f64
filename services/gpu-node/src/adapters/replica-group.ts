/**
 * One replica group: model, runner, engine and bus agent, put together. `start` brings them up side
 * by side, because a person waits for the first picture; `drain` hands everything back.
 */
import { hostname } from "node:os";
import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import { type Objects, openObjects } from "@fluxline/platform/bus/object-store.ts";
import {
  checkpointsStore,
  type ObjectStoreDeclaration,
  resultsStore,
} from "@fluxline/platform/bus/topology.ts";
import type { Lifecycle } from "@fluxline/platform/lifecycle.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import { CheckpointPolicy } from "../core/checkpoint-policy.ts";
import type { DriverLimits } from "../core/driver.ts";
import { FenceGuard } from "../core/fence-guard.ts";
import type { ImageModel } from "../core/image-model.ts";
import { numericsClass } from "../core/numerics-class.ts";
import { deviceMap, type ModelLayout, planStages, type StagePlan } from "../core/stage-plan.ts";
import { describeModel, modelLayout } from "../models/families.ts";
import type { Recipe } from "../models/network.ts";
import { BlobStore } from "./blob-store.ts";
import { type AgentIdentity, BusAgent } from "./bus-agent.ts";
import { openCheckpoint } from "./checkpoint-folder.ts";
import { readCpuDeviceClass } from "./cpu-class.ts";
import { Engine } from "./engine.ts";
import type { GroupDevices } from "./group-devices.ts";
import {
  layOutDevices,
  runnerDevice,
  type RunnerRole,
  simulatedStageCosts,
} from "./group-devices-layout.ts";
import type { GroupOptions } from "./group-options.ts";
import { PlacementDesk } from "./placement-desk.ts";
import { ReportSender } from "./report-sender.ts";
import { DeviceRunner } from "./runner/device-runner.ts";

const FIRST_CONNECT_MS = 10_000;
const STORES_WAIT_MS = 250;
/** Together with the runner's grace these are less than the lifecycle's bound for one part. */
const LAST_STEP_MS = 3_000;
const SETTLE_MS = 4_000;

type Environment = Readonly<Record<string, string | undefined>>;

export class ReplicaGroup {
  readonly #options: GroupOptions;
  readonly #environment: Environment;
  readonly #log: Logger;
  readonly #lifecycle: Lifecycle;
  readonly incarnation = randomUUID();

  constructor(options: GroupOptions, environment: Environment, log: Logger, lifecycle: Lifecycle) {
    this.#options = options;
    this.#environment = environment;
    this.#log = log.child({ pool: options.pool, group: options.group });
    this.#lifecycle = lifecycle;
  }

  /** Resolves when a leader has accepted the group. */
  async start(): Promise<{ model: ImageModel; numericsClass: string }> {
    const connecting = this.#connect();
    connecting.catch(() => undefined); // awaited below; the model's error may come first
    const { model: folder, runType } = this.#options;
    const checkpoint = await openCheckpoint(folder);
    const layout = modelLayout(checkpoint);
    const plan = planStages(layout, { stages: 1 });
    const { stages } = plan;
    const model = describeModel(checkpoint, { runType, recipe: this.#recipe, stages });
    const devices = this.#devices(model, layout, plan);
    this.#lifecycle.add({ name: "devices", drain: () => devices.stop() });
    const loading = devices.start();
    loading.catch(() => undefined);
    const bus = await connecting;
    this.#lifecycle.add({ name: "bus", drain: () => bus.drain() });
    const numericsClass = this.#numericsClass(model);
    const limits: DriverLimits = {
      rowsMax: this.#options.rowsMax,
      residentsMax: this.#options.residentsMax,
      batching: "measured",
      stepsInFlightMax: stages.length,
      devices: deviceMap(layout, plan),
    };
    const agent = await this.#agent(bus, model, devices, limits, numericsClass);
    await loading;
    await agent.start();
    return { model, numericsClass };
  }

  /** WebGPU's fused attention gives wrong numbers from about 32 tokens on. */
  get #recipe(): Recipe {
    return this.#options.provider === "webgpu" ? "portable" : "fused";
  }

  /**
   * Until a runner can name its GPU, a GPU's class is this very machine: a checkpoint made on
   * another one is not gone on from.
   */
  get #deviceClass(): string {
    const { provider } = this.#options;
    if (provider !== "cpu" && provider !== "simulated") return hostname();
    return readCpuDeviceClass();
  }

  #connect(): Promise<Bus> {
    const { nats, group } = this.#options;
    return connectBus({
      url: nats,
      name: `gpu-node ${group}`,
      firstConnectMs: FIRST_CONNECT_MS,
      onStatus: (status) => this.#log.warn(status, "nats"),
    });
  }

  #devices(model: ImageModel, layout: ModelLayout, plan: StagePlan): GroupDevices {
    const { provider, simulatedStepSeconds } = this.#options;
    if (provider === "simulated") {
      this.#log.warn("provider simulated: nothing is computed, pictures are empty");
    }
    const costs = simulatedStageCosts(model.denoiser, plan, simulatedStepSeconds);
    const makeRunner = ({ role, graphs, place }: RunnerRole): DeviceRunner =>
      new DeviceRunner({
        device: runnerDevice(this.#options, place, costs),
        role,
        graphs,
        environment: this.#environment,
        log: (message, facts) => this.#log.info(facts, message),
        onBroken: (error) => {
          this.#log.error({ error }, "the runner cannot be kept alive");
          process.exitCode = 1;
          this.#lifecycle.stop("runner broken");
        },
      });
    return layOutDevices({ model, layout, plan, provider, makeRunner });
  }

  async #agent(
    bus: Bus,
    model: ImageModel,
    devices: GroupDevices,
    limits: DriverLimits,
    numericsClass: string,
  ): Promise<BusAgent> {
    const { pool, group, provider, residentsMax } = this.#options;
    const log = (message: string, facts: Readonly<Record<string, unknown>>): void =>
      this.#log.info(facts, message);
    const blobs = new BlobStore(
      await this.#objects(bus, resultsStore),
      await this.#objects(bus, checkpointsStore),
    );
    const guard = new FenceGuard(this.incarnation);
    const reports = new ReportSender({ bus, pool, log });
    const drained = Promise.withResolvers<void>();
    const simulated = provider === "simulated";
    const desk = new PlacementDesk({
      bus,
      blobs,
      reports,
      modelName: model.profile.name,
      modelDigest: model.profile.digest,
      numericsClass,
      simulated,
      checkpoints: new CheckpointPolicy(this.#options.checkpoints),
      clock: realClock,
      leaderEpoch: () => guard.leaderEpoch,
      onStale: (id) => engine.fence(id),
      onDrained: () => {
        drained.resolve();
        this.#lifecycle.stop("drained");
      },
      log,
    });
    const engine = new Engine(model, devices, limits, desk, desk, realClock);
    const identity: AgentIdentity = {
      pool,
      group,
      incarnation: this.incarnation,
      numericsClass,
      simulated,
      residentsMax,
    };
    const onRefused = (error: AppError): void => {
      this.#log.error({ error }, "the leader refuses this group");
      process.exitCode = 1;
      this.#lifecycle.stop("refused by the leader");
    };
    const parts = { bus, model, engine, devices, desk, blobs, guard, onRefused, log };
    const agent = new BusAgent(identity, parts);
    this.#lifecycle.add({
      name: "agent",
      drain: async () => {
        engine.drain();
        agent.announceDrain();
        const soon = new Promise((resolve) => setTimeout(resolve, LAST_STEP_MS));
        await Promise.race([drained.promise, soon]);
        // A step that takes too long is given up: the latents before it are here.
        await devices.stop();
        await drained.promise;
        const settled = await desk.settle(SETTLE_MS);
        if (!settled) log("some reports were never acknowledged", {});
        reports.stop();
        await agent.stop();
      },
    });
    return agent;
  }

  /** The scheduler makes the stores; it may start after us. */
  async #objects(bus: Bus, store: ObjectStoreDeclaration): Promise<Objects> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await openObjects(bus, store);
      } catch (thrown) {
        const error = toAppError(thrown);
        if (error.reason !== "STORE_MISSING") throw error;
        if (attempt === 1) this.#log.info({ store: store.name }, "waiting for a scheduler");
        await new Promise((resolve) => setTimeout(resolve, STORES_WAIT_MS));
      }
    }
  }

  #numericsClass(model: ImageModel): string {
    const { provider, runType } = this.#options;
    return numericsClass({
      modelDigest: model.profile.digest,
      runType,
      provider,
      recipe: this.#recipe,
      runtimeVersion: onnxruntimeVersion(),
      deviceClass: this.#deviceClass,
    });
  }
}

function onnxruntimeVersion(): string {
  const { version } = createRequire(import.meta.url)("onnxruntime-node/package.json") as {
    version?: string;
  };
  if (version !== undefined) return version;
  throw new AppError("internal", "onnxruntime-node has no version in its package.json");
}
