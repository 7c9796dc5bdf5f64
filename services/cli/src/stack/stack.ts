/**
 * Everything that makes pictures, on this machine: nats-server, a scheduler, a GPU node, each a
 * child process. They start side by side, because each waits for what it needs by itself, and end
 * one after another: the GPU node hands its work back while the scheduler still takes it, and the
 * scheduler ends while NATS still stores.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { natsConfig } from "./nats-config.ts";
import { freePort, loopback } from "./port.ts";
import { gpuNodeProgram, natsGuardProgram, schedulerProgram } from "./service-program.ts";
import type { Environment } from "../session.ts";
import type { ChildSpec } from "./child.ts";
import { type StackEvent, Supervisor } from "./supervisor.ts";

/** What the GPU node runs, and on what. */
export interface NodeOptions {
  readonly model: string;
  readonly threads?: number | undefined;
  readonly provider: string;
  readonly runType: string;
}

export interface StackOptions {
  readonly folder: string;
  readonly logFile: (child: string) => string;
  readonly natsServer: string;
  readonly environment: Environment;
  /** 0: any free one. */
  readonly natsPort: number;
  /** Where the scheduler listens for gRPC; 0: any free one. */
  readonly port: number;
  readonly node: NodeOptions;
  readonly onEvent: (event: StackEvent) => void;
}

export interface StackMember {
  readonly name: string;
  readonly pid: number;
}

const pool = "default";
const natsReadyMsMax = 30_000;
const schedulerReadyMsMax = 60_000;
/** A checkpoint of 24 GB from a slow disk takes minutes. */
const gpuNodeReadyMsMax = 15 * 60_000;
const drainMsMax = 15_000;

export class Stack {
  /** HOST:PORT of the gRPC API. */
  readonly address: string;
  readonly natsUrl: string;
  readonly #children: readonly Supervisor[];

  private constructor(address: string, natsUrl: string, children: readonly Supervisor[]) {
    this.address = address;
    this.natsUrl = natsUrl;
    this.#children = children;
  }

  /** Spawns all children; `untilReady` says when they serve. */
  static async spawn(options: StackOptions): Promise<Stack> {
    const natsPort = options.natsPort || (await freePort());
    const port = options.port || (await freePort());
    const config = join(options.folder, "nats.conf");
    writeFileSync(config, natsConfig(natsPort, join(options.folder, "jetstream")));
    const natsUrl = `nats://${loopback}:${natsPort}`;
    const specs = childSpecs(options, { natsPort, natsUrl, config, port });
    const children = specs.map((spec) => new Supervisor(spec, options.onEvent));
    return new Stack(`${loopback}:${port}`, natsUrl, children);
  }

  get members(): readonly StackMember[] {
    return this.#children.map(({ spec, pid }) => ({ name: spec.name, pid }));
  }

  /** Resolves when all serve; rejects with the reason of the first that does not. */
  async untilReady(): Promise<void> {
    await Promise.all(this.#children.map((child) => child.start()));
  }

  /** Rejects when a child cannot be kept alive; never resolves. */
  get failed(): Promise<never> {
    return Promise.race(this.#children.map((child) => child.gaveUp));
  }

  /** Ends all, the last started first, each within its time. */
  async stop(): Promise<void> {
    for (const child of this.#children.toReversed()) await child.stop();
  }

  /** Ends all at once, without waiting. */
  kill(): void {
    for (const child of this.#children.toReversed()) child.killGroup();
  }
}

interface Endpoints {
  readonly natsPort: number;
  readonly natsUrl: string;
  readonly config: string;
  readonly port: number;
}

function childSpecs(options: StackOptions, at: Endpoints): readonly ChildSpec[] {
  const child = (name: string, readyMsMax: number, args: string[], env: Environment = {}) => ({
    name,
    file: process.execPath,
    args,
    environment: { ...options.environment, ...env },
    logFile: options.logFile(name),
    readyMsMax,
    drainMsMax,
  });
  const nats = [natsGuardProgram, loopback, String(at.natsPort), options.natsServer];
  nats.push("-c", at.config);
  const gpuNode = [gpuNodeProgram, "serve", "--nats", at.natsUrl, "--pool", pool];
  const { model, threads, provider, runType } = options.node;
  gpuNode.push("--group", "g0", "--model", model, "--provider", provider, "--run-type", runType);
  if (threads !== undefined) gpuNode.push("--threads", String(threads));
  return [
    child("nats", natsReadyMsMax, nats),
    child("scheduler", schedulerReadyMsMax, [schedulerProgram], schedulerSettings(at)),
    child("gpu-node", gpuNodeReadyMsMax, [...gpuNode, "--exit-with-parent"]),
  ];
}

/** The scheduler takes its settings from the environment. */
function schedulerSettings({ natsUrl, port }: Endpoints): Environment {
  return {
    FLUXLINE_HOST: loopback,
    FLUXLINE_PORT: String(port),
    FLUXLINE_NATS_URL: natsUrl,
    // Named, so that it is led before its first group asks.
    FLUXLINE_POOLS: pool,
    FLUXLINE_UNTIL_STDIN_ENDS: "on",
  };
}
