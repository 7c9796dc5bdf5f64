/**
 * Puts the devices of a group together as the plan has it: the stages in a chain, and beside them a
 * runner on the CPU if something was placed there. Stages are runners of this process, or whatever
 * stands for a rank elsewhere.
 */
import type { Graph, ImageModel } from "../core/image-model.ts";
import {
  componentsAt,
  type ModelLayout,
  sequentialGraphs,
  type StagePlan,
} from "../core/stage-plan.ts";
import { GroupDevices } from "./group-devices.ts";
import type { Provider, RunnerArguments } from "./runner/arguments.ts";
import type { DeviceRunner } from "./runner/device-runner.ts";
import type { SimulatedCost, SimulatedCosts } from "./runner/simulated-backend.ts";
import { LocalStage, type StageDevice } from "./stage-device.ts";

/** Encoding and decoding take about as long as a step in the simulated device. */
const SIMULATED_OTHER_SHARE = 0.5;

/** A runner that this process is to start. */
export interface RunnerRole {
  /** Of the device that it becomes: the rank, or the number of stages for one beside them. */
  readonly index: number;
  /** For the process's title. */
  readonly role: string;
  readonly graphs: readonly Graph[];
  /** Names of those that are loaded for each use and let go after it. */
  readonly sequential: ReadonlySet<string>;
  readonly place: "stage" | "cpu";
}

export interface DevicesLayout {
  readonly model: ImageModel;
  readonly layout: ModelLayout;
  readonly plan: StagePlan;
  readonly provider: Provider;
  readonly makeRunner: (role: RunnerRole) => DeviceRunner;
  /** Ranks 1 to the last, if they are not runners of this process. */
  readonly remote?: readonly StageDevice[];
}

export function layOutDevices(options: DevicesLayout): GroupDevices {
  const { model, layout, plan, provider, makeRunner, remote } = options;
  const onCpu = componentsAt(layout, plan, "cpu").map(({ graph }) => graph);
  const sequential = sequentialGraphs(layout, plan);
  const places = new Map<string, number>();
  for (const graph of onCpu) places.set(graph, plan.stages.length);
  const devices: StageDevice[] = [];
  for (const rank of [...plan.stages.keys()].toReversed()) {
    const beside = componentsAt(layout, plan, rank).map(({ graph }) => graph);
    for (const graph of beside) places.set(graph, rank);
    const local = (): StageDevice => {
      const graphs = [...beside, model.denoiser[rank]!].map((name) => model.graphs.get(name)!);
      const role = `rank ${rank}`;
      const runner = makeRunner({ index: rank, role, graphs, sequential, place: "stage" });
      return new LocalStage({ rank, provider, runner, next: devices[0] });
    };
    devices.unshift((rank === 0 ? undefined : remote?.[rank - 1]) ?? local());
  }
  if (onCpu.length > 0) {
    const graphs = onCpu.map((name) => model.graphs.get(name)!);
    const role = "rank 0 beside the stages";
    const index = plan.stages.length;
    const runner = makeRunner({ index, role, graphs, sequential, place: "cpu" });
    const besideProvider = provider === "simulated" ? provider : "cpu";
    devices.push(new LocalStage({ rank: 0, provider: besideProvider, runner }));
  }
  return new GroupDevices({ model, devices, places, decodeTile: plan.decodeTile });
}

/** What a rank's runner is, or the runner beside the stages. */
export function runnerDevice(
  options: { readonly provider: Provider; readonly threads: number },
  place: RunnerRole["place"],
  simulatedCosts: SimulatedCosts,
): RunnerArguments {
  const { provider, threads } = options;
  if (provider === "simulated") return { provider, simulatedCosts };
  return { provider: place === "cpu" ? "cpu" : provider, threads };
}

/** A step's simulated seconds, spread over the stages by their share of the work. */
export function simulatedStageCosts(
  parts: readonly { readonly graph: string; readonly share: number }[],
  stepSeconds: number,
): SimulatedCosts {
  const fixed = (baseSeconds: number): SimulatedCost => ({ baseSeconds, rowSeconds: 0 });
  const stages = parts.map(({ graph, share }) => [graph, fixed(stepSeconds * share)]);
  return { ...Object.fromEntries(stages), default: fixed(stepSeconds * SIMULATED_OTHER_SHARE) };
}
