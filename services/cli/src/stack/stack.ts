/**
 * Everything that makes pictures, on this machine: nats-server, a scheduler, and replica groups of
 * one process per pipeline stage, each a child process. They start side by side, because each waits
 * for what it needs by itself, and end one after another: every driver hands its work back while
 * its stages still run and the scheduler still takes it, and the scheduler ends while NATS still
 * stores.
 */
import { writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import type { Environment } from "../session.ts";
import { natsConfig } from "./nats-config.ts";
import { freePort, loopback } from "./port.ts";
import { makeSocketFolder, type SocketFolder } from "./socket-folder.ts";
import { type NodeOptions, stageCount, type StackLayout, stackLayout } from "./stack-layout.ts";
import { type StackEvent, Supervisor } from "./supervisor.ts";

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
  /** Of a process that computes. */
  readonly device?: string;
}

export class Stack {
  /** HOST:PORT of the gRPC API. */
  readonly address: string;
  readonly natsUrl: string;
  readonly #nats: Supervisor;
  readonly #scheduler: Supervisor;
  /** Ranks in order, the driver first. */
  readonly #groups: readonly (readonly Supervisor[])[];
  readonly #device: string;
  readonly #sockets: SocketFolder | undefined;

  private constructor(
    options: StackOptions,
    address: string,
    layout: StackLayout,
    sockets: SocketFolder | undefined,
  ) {
    const supervise = (spec: StackLayout["nats"]) => new Supervisor(spec, options.onEvent);
    this.address = address;
    this.natsUrl = layout.natsUrl;
    this.#nats = supervise(layout.nats);
    this.#scheduler = supervise(layout.scheduler);
    this.#groups = layout.groups.map((ranks) => ranks.map(supervise));
    const { provider } = options.node;
    this.#device = provider === "cpu" ? `cpu, ${threadText(layout.threads)}` : provider;
    this.#sockets = sockets;
  }

  /** Spawns all children; `untilReady` says when they serve. */
  static async spawn(options: StackOptions): Promise<Stack> {
    const { folder, node, environment, logFile, natsServer } = options;
    const natsPort = options.natsPort || (await freePort());
    const port = options.port || (await freePort());
    const config = join(folder, "nats.conf");
    writeFileSync(config, natsConfig(natsPort, join(folder, "jetstream")));
    const sockets = stageCount(node) > 1 ? makeSocketFolder(folder, tmpdir()) : undefined;
    const layout = stackLayout({
      node,
      cores: availableParallelism(),
      environment,
      logFile,
      natsServer,
      natsPort,
      natsConfig: config,
      port,
      socketFolder: sockets?.path ?? "",
    });
    return new Stack(options, `${loopback}:${port}`, layout, sockets);
  }

  get members(): readonly StackMember[] {
    const member = ({ spec, pid }: Supervisor) => ({ name: spec.name, pid });
    const nodes = this.#groups.flat().map((node) => ({ ...member(node), device: this.#device }));
    return [member(this.#nats), member(this.#scheduler), ...nodes];
  }

  /** Resolves when all serve; rejects with the reason of the first that does not. */
  async untilReady(): Promise<void> {
    await Promise.all(this.#children.map((child) => child.start()));
  }

  /** Rejects when a child cannot be kept alive; never resolves. */
  get failed(): Promise<never> {
    return Promise.race(this.#children.map((child) => child.gaveUp));
  }

  /** Ends all, each within its time: the groups, then the scheduler, then NATS. */
  async stop(): Promise<void> {
    await Promise.all(this.#groups.map(stopGroup));
    await this.#scheduler.stop();
    await this.#nats.stop();
    this.#sockets?.remove();
  }

  /** Ends all at once, without waiting. */
  kill(): void {
    for (const child of this.#children.toReversed()) child.killGroup();
    this.#sockets?.remove();
  }

  get #children(): readonly Supervisor[] {
    return [this.#nats, this.#scheduler, ...this.#groups.flat()];
  }
}

/** The driver needs its stages until it has handed over; then it tells them to end. */
async function stopGroup([driver, ...stages]: readonly Supervisor[]): Promise<void> {
  for (const stage of stages) stage.letEnd();
  await driver?.stop();
  await Promise.all(stages.map((stage) => stage.stop()));
}

function threadText(threads: number): string {
  return threads === 1 ? "1 thread" : `${threads} threads`;
}
