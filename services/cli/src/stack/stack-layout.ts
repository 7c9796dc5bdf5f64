/**
 * Which processes a stack is made of, and what each is told. Pure: options in, command lines out.
 *
 *   nats   scheduler   and for each group:  driver (rank 0)  --unix socket-->  stage 1 .. stages - 1
 *
 * Names are those of log files and messages; `ps` shows what each process calls itself.
 */
import { join } from "node:path";
import type { Environment } from "../session.ts";
import type { ChildSpec } from "./child.ts";
import { loopback } from "./port.ts";
import { gpuNodeProgram, natsGuardProgram, schedulerProgram } from "./service-program.ts";

/** What the GPU nodes run, and on what. */
export interface NodeOptions {
  readonly model: string;
  /** Of each process that computes; undefined: all cores, shared out. */
  readonly threads?: number | undefined;
  readonly provider: string;
  readonly runType: string;
  /** Processes that share one transformer; undefined: one, or as many as there are devices. */
  readonly stages?: number | undefined;
  /** Replica groups, each with a whole model. */
  readonly groups: number;
  /** Passed on as they are: the GPU node knows their limits and says which value is wrong. */
  readonly devices?: string | undefined;
  readonly maxSize?: string | undefined;
  readonly linkGbit?: string | undefined;
  readonly cuts?: string | undefined;
  readonly place?: string | undefined;
  readonly sequential?: string | undefined;
  readonly decodeTile?: string | undefined;
  readonly maxBatch?: string | undefined;
  readonly batching?: string | undefined;
  readonly maxResidents?: string | undefined;
  readonly maxStepsInFlight?: string | undefined;
  readonly simulatedStepSeconds?: string | undefined;
  readonly checkpointEveryMs?: string | undefined;
}

export interface LayoutOptions {
  readonly node: NodeOptions;
  readonly cores: number;
  readonly environment: Environment;
  readonly logFile: (child: string) => string;
  readonly natsServer: string;
  readonly natsPort: number;
  readonly natsConfig: string;
  /** Where the scheduler listens for gRPC. */
  readonly port: number;
  /** For the links between stages; asked for only if there are any. */
  readonly socketFolder: string;
}

export interface StackLayout {
  readonly nats: ChildSpec;
  readonly scheduler: ChildSpec;
  /** Ranks in order, the driver first. */
  readonly groups: readonly (readonly ChildSpec[])[];
  readonly natsUrl: string;
  readonly threads: number;
}

const pool = "default";
const natsReadyMsMax = 30_000;
const schedulerReadyMsMax = 60_000;
/** A checkpoint of 24 GB from a slow disk takes minutes. */
const gpuNodeReadyMsMax = 15 * 60_000;
const drainMsMax = 15_000;

/** Every process that computes gets the same number of threads, and none gets none. */
export function threadShare(cores: number, processes: number): number {
  return Math.max(1, Math.floor(cores / processes));
}

export function stackLayout(options: LayoutOptions): StackLayout {
  const { node, natsServer, natsPort, natsConfig, port } = options;
  const natsUrl = `nats://${loopback}:${natsPort}`;
  const nats = [natsGuardProgram, loopback, String(natsPort), natsServer, "-c", natsConfig];
  const settings = schedulerSettings(natsUrl, port);
  const threads = node.threads ?? threadShare(options.cores, node.groups * stageCount(node));
  const groups = Array.from({ length: node.groups }, (_, group) =>
    groupSpecs(options, { group: `g${group}`, natsUrl, threads }),
  );
  return {
    nats: childSpec(options, "nats", natsReadyMsMax, nats),
    scheduler: childSpec(options, "scheduler", schedulerReadyMsMax, [schedulerProgram], settings),
    groups,
    natsUrl,
    threads,
  };
}

interface GroupFacts {
  readonly group: string;
  readonly natsUrl: string;
  readonly threads: number;
}

function groupSpecs(options: LayoutOptions, facts: GroupFacts): readonly ChildSpec[] {
  const { node } = options;
  const { model, provider, runType, devices } = node;
  const stages = stageCount(node);
  const { group, natsUrl, threads } = facts;
  const shared = ["--pool", pool, "--group", group, "--model", model, "--provider", provider];
  shared.push("--run-type", runType, "--threads", String(threads), "--exit-with-parent");
  shared.push(...given("--cuts", node.cuts), ...given("--place", node.place));
  shared.push(...given("--devices", devices), ...given("--max-size", node.maxSize));
  shared.push(...given("--link-gbit", node.linkGbit), ...given("--max-batch", node.maxBatch));
  shared.push(...given("--sequential", node.sequential));
  shared.push(...given("--decode-tile", node.decodeTile));
  shared.push(...given("--simulated-step-seconds", node.simulatedStepSeconds));
  const ranks = Array.from({ length: stages - 1 }, (_, index) => index + 1);
  const address = (rank: number) => `unix:${join(options.socketFolder, `${group}-${rank}.sock`)}`;
  const driver = [gpuNodeProgram, "serve", "--nats", natsUrl, ...shared];
  driver.push(...given("--batching", node.batching));
  driver.push(...given("--max-residents", node.maxResidents));
  driver.push(...given("--max-steps-in-flight", node.maxStepsInFlight));
  driver.push(...given("--checkpoint-every-ms", node.checkpointEveryMs));
  if (stages > 1) {
    driver.push("--stages", String(stages), "--stage-addresses", ranks.map(address).join(","));
  }
  return [
    childSpec(options, `gpu-node ${group} driver`, gpuNodeReadyMsMax, driver),
    ...ranks.map((rank) => {
      const place = ["--rank", String(rank), "--stages", String(stages), "--listen", address(rank)];
      const args = [gpuNodeProgram, "stage", ...place, ...shared];
      return childSpec(options, `gpu-node ${group} stage ${rank}`, gpuNodeReadyMsMax, args);
    }),
  ];
}

/** A list like `2x24GiB,1xH100` has three; what is wrong with it is the GPU node's to say. */
export function stageCount({ stages, devices }: NodeOptions): number {
  if (stages !== undefined) return stages;
  const counts = devices?.split(",").map((part) => /^\s*(\d{1,2})x/i.exec(part)?.[1] ?? "1") ?? [];
  return Math.max(
    1,
    counts.reduce((sum, count) => sum + Number(count), 0),
  );
}

function given(option: string, value: string | undefined): readonly string[] {
  return value === undefined ? [] : [option, value];
}

function childSpec(
  { environment, logFile }: LayoutOptions,
  name: string,
  readyMsMax: number,
  args: readonly string[],
  settings: Environment = {},
): ChildSpec {
  return {
    name,
    file: process.execPath,
    args,
    environment: { ...environment, ...settings },
    logFile: logFile(name.replaceAll(" ", "-")),
    readyMsMax,
    drainMsMax,
  };
}

/** The scheduler takes its settings from the environment. */
function schedulerSettings(natsUrl: string, port: number): Environment {
  return {
    FLUXLINE_HOST: loopback,
    FLUXLINE_PORT: String(port),
    FLUXLINE_NATS_URL: natsUrl,
    // Named, so that it is led before its first group asks.
    FLUXLINE_POOLS: pool,
    FLUXLINE_UNTIL_STDIN_ENDS: "on",
  };
}
