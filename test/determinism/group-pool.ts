/**
 * Replica groups with real runner processes, kept open for the next case that wants the same cuts
 * and threads; the one not used for longest is closed when there are too many processes.
 */
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import type { ChainCall, GroupDevices } from "@fluxline/gpu-node/adapters/group-devices.ts";
import type { ImageModel } from "@fluxline/gpu-node/core/image-model.ts";
import { type DevicePlan } from "@fluxline/gpu-node/core/step-batcher.ts";
import { deviceMap } from "@fluxline/gpu-node/core/stage-plan.ts";
import { modelLayout } from "@fluxline/gpu-node/models/families.ts";
import { assert } from "@fluxline/kernel/assert.ts";
import { ImageBench } from "../support/image-bench.ts";
import { StageProcesses } from "../support/stage-processes.ts";
import type { GroupShape } from "./matrix-case.ts";

/** A group as a case uses it: its devices, and who to kill. */
export interface MatrixGroup {
  readonly model: ImageModel;
  readonly devices: GroupDevices;
  readonly plan: DevicePlan;
  readonly stages: number;
  /** Told of every step before it begins. */
  onStep: (call: ChainCall) => void;
  /** kill -9 of a stage's runner. */
  kill(rank: number): void;
  /** Times that a runner was started again. */
  restarts(): number;
  close(): Promise<void>;
}

export class GroupPool {
  readonly #runnersMax: number;
  /** In order of use. */
  readonly #groups = new Map<string, MatrixGroup>();

  constructor(runnersMax: number) {
    this.#runnersMax = runnersMax;
  }

  async group(folder: string, shape: GroupShape): Promise<MatrixGroup> {
    const key = `${folder} ${JSON.stringify(shape)}`;
    const found = this.#groups.get(key);
    this.#groups.delete(key);
    if (found === undefined) await this.#makeRoom(shape.cuts.length + 1);
    const group = found ?? (await openGroup(folder, shape));
    this.#groups.set(key, group);
    return group;
  }

  async close(): Promise<void> {
    await this.#makeRoom(this.#runnersMax);
  }

  async #makeRoom(runners: number): Promise<void> {
    for (const [key, group] of this.#groups) {
      const open = [...this.#groups.values()].reduce((sum, { stages }) => sum + stages, 0);
      if (open + runners <= this.#runnersMax) return;
      this.#groups.delete(key);
      await group.close();
    }
  }
}

async function openGroup(
  folder: string,
  { cuts, threads, linked }: GroupShape,
): Promise<MatrixGroup> {
  const stages = cuts.length + 1;
  const device = { provider: "cpu", threads } as const;
  const options = ["--cuts", cuts.join(), "--threads", String(threads)];
  // Unix sockets where there is one link, TCP where there are more.
  const processes = linked
    ? await StageProcesses.start(folder, { stages, options, tcp: stages > 2 })
    : undefined;
  const bench = await ImageBench.open(folder, {
    device,
    stages,
    cuts,
    ...(processes !== undefined && { processes }),
  });
  const { devices, model, runners } = bench;
  const layout = modelLayout(await openCheckpoint(folder));
  const pidOf = (rank: number): number => {
    const pid = processes && rank > 0 ? processes.rank(rank).runnerPid() : bench.runnerPids[rank];
    assert(pid !== undefined, `stage ${rank} has no runner`);
    return pid;
  };
  /** Runners that we killed in other processes. */
  const killed: { readonly rank: number; readonly pid: number }[] = [];
  const group: MatrixGroup = {
    model,
    devices,
    plan: deviceMap(layout, bench.plan),
    stages,
    onStep: () => undefined,
    kill: (rank) => {
      const pid = pidOf(rank % stages);
      if (processes && rank % stages > 0) killed.push({ rank: rank % stages, pid });
      process.kill(pid, "SIGKILL");
    },
    restarts: () => {
      const here = runners.reduce((sum, runner) => sum + runner.restarts, 0);
      return here + killed.filter(({ rank, pid }) => pidOf(rank) !== pid).length;
    },
    close: async () => {
      await bench.close();
      await processes?.close();
    },
  };
  const run = devices.runChain.bind(devices);
  devices.runChain = (call) => {
    group.onStep(call);
    return run(call);
  };
  return group;
}
