/**
 * Ranks 1 and on of a group as the real processes that they are, for an `ImageBench` that drives
 * them from the test's own process.
 */
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "@fluxline/kernel/random.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { parseGroupOptions } from "@fluxline/gpu-node/adapters/group-options.ts";
import { rankFacts } from "@fluxline/gpu-node/adapters/stage-facts.ts";
import { StageLinks, type StageLinksOptions } from "@fluxline/gpu-node/adapters/stage-links.ts";
import { linkLimits } from "@fluxline/gpu-node/adapters/stage-link/link-limits.ts";
import { type GroupProcess, startStageProcess } from "./group-process.ts";

export type StageEvents = Partial<Pick<StageLinksOptions, "onState" | "onDrainAsked" | "onBroken">>;

export interface ProcessesOptions {
  readonly stages: number;
  /** --cuts, --place and the like, as for every rank. */
  readonly options?: readonly string[];
  /** Those of the driver, where they differ. */
  readonly driver?: readonly string[];
  /** Over TCP on free ports of this machine; default: unix sockets. */
  readonly tcp?: boolean | undefined;
  /** Settings beside those of this process. */
  readonly environment?: Readonly<Record<string, string>>;
}

export class StageProcesses {
  /** By rank; none at 0. */
  readonly processes: (GroupProcess | undefined)[] = [undefined];
  readonly #model: string;
  readonly #options: ProcessesOptions;
  readonly #folder = mkdtempSync(join(tmpdir(), "fluxline-stages-"));
  #links: StageLinks | undefined;

  private constructor(model: string, options: ProcessesOptions) {
    this.#model = model;
    this.#options = options;
  }

  static async start(model: string, options: ProcessesOptions): Promise<StageProcesses> {
    const made = new StageProcesses(model, options);
    const ranks = Array.from({ length: options.stages - 1 }, (_, index) => index + 1);
    await Promise.all(ranks.map((rank) => made.startRank(rank)));
    return made;
  }

  /** Starts the process of a rank, as its supervisor would after it died. */
  async startRank(rank: number): Promise<GroupProcess> {
    const { stages, options = [], tcp = false, environment = {} } = this.#options;
    const listen = tcp ? "tcp://127.0.0.1:0" : `unix:${join(this.#folder, `${rank}.sock`)}`;
    const place = ["--rank", String(rank), "--stages", String(stages), "--listen", listen];
    const started = await startStageProcess(this.#model, [...place, ...options], environment);
    this.processes[rank] = started;
    return started;
  }

  rank(rank: number): GroupProcess {
    const found = this.processes[rank];
    if (found === undefined) throw new Error(`no process of rank ${rank}`);
    return found;
  }

  /** Links to them as a driver has them. */
  async connect(events: StageEvents): Promise<StageLinks> {
    const { stages, options = [], driver = options } = this.#options;
    const addresses = this.processes.slice(1).map((one) => one!.ready["address"]);
    const place = ["--stages", String(stages), "--stage-addresses", addresses.join(",")];
    const parsed = parseGroupOptions(["--model", this.#model, ...place, ...driver], 1);
    const facts = rankFacts(await openCheckpoint(this.#model), parsed, process.env);
    this.#links = new StageLinks({
      identity: facts.identity(0, randomUUID()),
      limits: linkLimits(),
      security: parsed.security,
      random: new Random(1),
      addresses: parsed.stageAddresses,
      provider: parsed.provider,
      startMsMax: 60_000,
      awayMsMax: parsed.stageAwayMsMax,
      onState: () => undefined,
      onDrainAsked: () => undefined,
      onBroken: () => undefined,
      ...events,
      log: { info: () => undefined, warn: () => undefined },
    });
    return this.#links;
  }

  async close(): Promise<void> {
    await this.#links?.stop();
    await Promise.all(this.processes.map((one) => one?.kill()));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
