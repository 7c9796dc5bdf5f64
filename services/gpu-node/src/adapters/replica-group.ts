/**
 * One replica group: model, runner, engine and bus agent, put together. `start` brings them up side
 * by side, because a person waits for the first picture; `drain` hands everything back.
 */
import { randomUUID } from "node:crypto";
import { type AppError, toAppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
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
import type { DevicesState, DriverLimits } from "../core/driver.ts";
import { FenceGuard } from "../core/fence-guard.ts";
import type { Graph, ImageModel } from "../core/image-model.ts";
import { componentsAt, deviceMap } from "../core/stage-plan.ts";
import { describeModel } from "../models/families.ts";
import { BlobStore } from "./blob-store.ts";
import { type AgentIdentity, BusAgent } from "./bus-agent.ts";
import type { Environment } from "./cache-folder.ts";
import { Engine } from "./engine.ts";
import type { GroupDevices } from "./group-devices.ts";
import {
  layOutDevices,
  runnerDevice,
  type RunnerRole,
  simulatedStageCosts,
} from "./group-devices-layout.ts";
import type { GroupOptions } from "./group-options.ts";
import { type ModelSource, openModel, prepareGraphs } from "./model-source.ts";
import { PlacementDesk } from "./placement-desk.ts";
import { ReportSender } from "./report-sender.ts";
import { DeviceRunner } from "./runner/device-runner.ts";
import { type RankFacts, rankFacts } from "./stage-facts.ts";
import { linkLimits } from "./stage-link/link-limits.ts";
import { FETCHING_START_MS_MAX, START_MS_MAX, StageLinks } from "./stage-links.ts";
import type { StartProgress } from "./start-progress.ts";

const FIRST_CONNECT_MS = 10_000;
const STORES_WAIT_MS = 250;
/** Together with the runner's grace these are less than the lifecycle's bound for one part. */
const LAST_STEP_MS = 3_000;
const SETTLE_MS = 4_000;

/**
 * One more than there are stages, so that the next step waits at a stage that becomes free; measured
 * in docs/benchmarks.md. A group of one stage takes one: a newcomer joins the very next step.
 */
function stepsInFlight(stages: number): number {
  return stages === 1 ? 1 : stages + 1;
}

/** What rank 0 loads: its stage, what is placed beside it, and what it runs on the CPU. */
function rankGraphs(model: ImageModel, { layout, plan }: RankFacts): readonly Graph[] {
  const beside = [...componentsAt(layout, plan, 0), ...componentsAt(layout, plan, "cpu")];
  const names = [...beside.map(({ graph }) => graph), model.denoiser[0]!];
  return names.map((name) => model.graphs.get(name)!);
}

export class ReplicaGroup {
  readonly #options: GroupOptions;
  readonly #environment: Environment;
  readonly #log: Logger;
  readonly #lifecycle: Lifecycle;
  readonly #onProgress: ((progress: StartProgress) => void) | undefined;
  readonly incarnation = randomUUID();
  /** Of a group with more than one stage. */
  #links: StageLinks | undefined;
  #devicesState: DevicesState = "whole";
  #engine: Engine | undefined;

  constructor(
    options: GroupOptions,
    environment: Environment,
    log: Logger,
    lifecycle: Lifecycle,
    onProgress?: (progress: StartProgress) => void,
  ) {
    this.#options = options;
    this.#environment = environment;
    this.#onProgress = onProgress;
    this.#log = log.child({ pool: options.pool, group: options.group });
    this.#lifecycle = lifecycle;
  }

  /** Resolves when a leader has accepted the group. */
  async start(): Promise<{ model: ImageModel; numericsClass: string }> {
    const connecting = this.#connect();
    connecting.catch(() => undefined); // awaited below; the model's error may come first
    const { model: reference, provider, threads } = this.#options;
    const log = (message: string, facts: object): void => this.#log.info(facts, message);
    const source = await openModel(reference, this.#environment, { log });
    const { checkpoint } = source;
    const facts = rankFacts(checkpoint, this.#options, this.#environment);
    const { layout, plan, memory, recipe, computation, onHost, numericsClass } = facts;
    const { stages } = plan;
    const model = describeModel(checkpoint, { ...computation, onHost, recipe, stages, memory });
    const onProgress = this.#onProgress;
    await prepareGraphs(source, rankGraphs(model, facts), { provider, threads, log, onProgress });
    const devices = this.#devices(model, facts, source);
    this.#lifecycle.add({ name: "devices", drain: () => devices.stop() });
    const loading = devices.start();
    loading.catch(() => undefined);
    const bus = await connecting;
    this.#lifecycle.add({ name: "bus", drain: () => bus.drain() });
    const limits: DriverLimits = {
      rowsMax: this.#options.rowsMax,
      residentsMax: this.#options.residentsMax,
      batching: this.#options.batching,
      stepsInFlightMax: this.#options.stepsInFlightMax ?? stepsInFlight(stages.length),
      devices: deviceMap(layout, plan),
    };
    const agent = await this.#agent(bus, model, devices, limits, numericsClass);
    await loading;
    await agent.start();
    return { model, numericsClass };
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

  #devices(model: ImageModel, facts: RankFacts, source: ModelSource): GroupDevices {
    const { provider, simulatedStepSeconds } = this.#options;
    const { layout, plan } = facts;
    if (provider === "simulated") {
      this.#log.warn("provider simulated: nothing is computed, pictures are empty");
    }
    const parts = model.denoiser.map((graph, rank) => ({ graph, share: plan.shares[rank]! }));
    const costs = simulatedStageCosts(parts, simulatedStepSeconds);
    const makeRunner = ({ role, graphs, sequential, place }: RunnerRole): DeviceRunner =>
      new DeviceRunner({
        device: runnerDevice(this.#options, place, costs),
        role,
        graphs,
        sequential,
        environment: this.#environment,
        log: (message, facts) => this.#log.info(facts, message),
        onBroken: (error) => this.#fail(error, "the runner cannot be kept alive"),
      });
    if (plan.stages.length > 1) this.#links = this.#stageLinks(facts, source);
    const remote = this.#links?.stages ?? [];
    return layOutDevices({ model, layout, plan, provider, makeRunner, remote });
  }

  #stageLinks(facts: RankFacts, { isFromHub }: ModelSource): StageLinks {
    const { stageAddresses, stageAwayMsMax, security, provider } = this.#options;
    return new StageLinks({
      identity: facts.identity(0, this.incarnation),
      limits: linkLimits(),
      security,
      random: new Random(Number.parseInt(this.incarnation.slice(0, 8), 16)),
      addresses: stageAddresses,
      provider,
      startMsMax: isFromHub ? FETCHING_START_MS_MAX : START_MS_MAX,
      awayMsMax: stageAwayMsMax,
      onState: (state) => {
        this.#devicesState = state;
        this.#engine?.devicesAre(state);
      },
      onDrainAsked: (rank) => this.#lifecycle.stop(`rank ${rank} has been asked to end`),
      onBroken: (error) => this.#fail(error, "steps are lost on their way again and again"),
      log: this.#log,
    });
  }

  /** Ends the process, for its supervisor to start another; what is resident is handed back. */
  #fail(error: AppError, what: string): void {
    this.#log.error({ error }, what);
    process.exitCode = 1;
    this.#lifecycle.stop(what);
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
    this.#engine = engine;
    if (this.#devicesState !== "whole") engine.devicesAre(this.#devicesState);
    const onRefused = (error: AppError): void => this.#fail(error, "the leader refuses this group");
    const parts = { bus, model, engine, devices, desk, blobs, guard, onRefused, log };
    const agent = new BusAgent(identity, parts);
    this.#lifecycle.add({
      name: "agent",
      drain: async () => {
        engine.drain();
        agent.announceDrain();
        const soon = new Promise((resolve) => setTimeout(resolve, LAST_STEP_MS));
        await Promise.race([drained.promise, soon]);
        // Stages end with a group that was asked to; after a failure they wait for its next driver.
        if (process.exitCode === undefined) await this.#links?.endStages();
        // A step that takes too long is given up: the latents before it are here.
        await this.#links?.stop();
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
}
