/**
 * A rank above 0 of a replica group, put together: its own graphs, a runner for them, and the
 * server through which the others reach it. It listens before its weights are loaded, so that the
 * ranks find one another meanwhile.
 */
import { randomUUID } from "node:crypto";
import { Random } from "@fluxline/kernel/random.ts";
import type { Lifecycle } from "@fluxline/platform/lifecycle.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import type { Graph } from "../core/image-model.ts";
import { componentsAt, sequentialGraphs } from "../core/stage-plan.ts";
import { modelGraphs } from "../models/families.ts";
import type { Environment } from "./cache-folder.ts";
import { runnerDevice, simulatedStageCosts } from "./group-devices-layout.ts";
import { openModel, prepareGraphs } from "./model-source.ts";
import { DeviceRunner } from "./runner/device-runner.ts";
import { rankFacts } from "./stage-facts.ts";
import { linkAddressText } from "./stage-link/link-address.ts";
import { linkLimits } from "./stage-link/link-limits.ts";
import type { StageOptions } from "./stage-options.ts";
import { StageServer } from "./stage-server.ts";
import type { StartProgress } from "./start-progress.ts";

export class StageProcess {
  readonly #options: StageOptions;
  readonly #environment: Environment;
  readonly #log: Logger;
  readonly #lifecycle: Lifecycle;
  readonly #onProgress: ((progress: StartProgress) => void) | undefined;
  readonly #incarnation = randomUUID();

  constructor(
    options: StageOptions,
    environment: Environment,
    log: Logger,
    lifecycle: Lifecycle,
    onProgress?: (progress: StartProgress) => void,
  ) {
    this.#options = options;
    this.#environment = environment;
    this.#onProgress = onProgress;
    const { pool, group, rank } = options;
    this.#log = log.child({ pool, group, rank });
    this.#lifecycle = lifecycle;
  }

  /** Resolves when it listens and its graphs are loaded. */
  async start(): Promise<{ address: string; numericsClass: string; graphs: readonly string[] }> {
    const { model, rank, listen, security, provider, threads } = this.#options;
    const log = (message: string, facts: object): void => this.#log.info(facts, message);
    const source = await openModel(model, this.#environment, { log });
    const { checkpoint } = source;
    const facts = rankFacts(checkpoint, this.#options, this.#environment);
    const { layout, plan, recipe, computation } = facts;
    const graphs = modelGraphs(
      checkpoint,
      { ...computation, recipe },
      {
        stage: plan.stages[rank],
        components: componentsAt(layout, plan, rank).map(({ name }) => name),
      },
    );
    const sequential = sequentialGraphs(layout, plan);
    const runner = this.#runner(plan.shares[rank]!, graphs, sequential, () => server.announce());
    this.#lifecycle.add({ name: "runner", drain: () => runner.stop() });
    const server = new StageServer({
      address: listen,
      identity: facts.identity(rank, this.#incarnation),
      limits: linkLimits(),
      security,
      random: new Random(Number.parseInt(this.#incarnation.slice(0, 8), 16)),
      provider,
      runner,
      onStop: () => this.#lifecycle.stop("the driver has drained the group"),
      log: this.#log,
    });
    const address = linkAddressText(await server.listen());
    this.#lifecycle.add({ name: "link", drain: () => server.close() });
    this.#lifecycle.add({ name: "group", drain: () => server.drain() });
    const onProgress = this.#onProgress;
    await prepareGraphs(source, graphs, { provider, threads, log, onProgress });
    await runner.start();
    server.announce();
    const { numericsClass } = facts;
    return { address, numericsClass, graphs: graphs.map(({ name }) => name) };
  }

  #runner(
    share: number,
    graphs: readonly Graph[],
    sequential: ReadonlySet<string>,
    onChange: () => void,
  ): DeviceRunner {
    const { rank, provider, simulatedStepSeconds } = this.#options;
    if (provider === "simulated") {
      this.#log.warn("provider simulated: nothing is computed, pictures are empty");
    }
    const stage = { graph: graphs.at(-1)!.name, share };
    const costs = simulatedStageCosts([stage], simulatedStepSeconds);
    return new DeviceRunner({
      device: runnerDevice(this.#options, "stage", costs),
      role: `rank ${rank}`,
      graphs,
      sequential,
      environment: this.#environment,
      log: (message, facts) => {
        this.#log.info(facts, message);
        onChange();
      },
      onBroken: (error) => {
        this.#log.error({ error }, "the runner cannot be kept alive");
        process.exitCode = 1;
        this.#lifecycle.stop("runner broken");
      },
    });
  }
}
