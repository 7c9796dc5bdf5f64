/**
 * A whole stack of real processes, each restarted when it dies:
 *
 *   nats-server   scheduler 0 .. R-1   and for each group: driver (rank 0), stage 1 .. S-1
 *
 * and each rank has its runner as a child. Strikes go to single processes by signals.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort, type NatsServer, startNats } from "../support/nats.ts";
import { type Death, Member } from "./member.ts";
import type { Victim } from "./plan.ts";

export const fluxTiny = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));

const service = (path: string): string =>
  fileURLToPath(new URL(`../../services/${path}/src/main.ts`, import.meta.url));

export interface ClusterOptions {
  readonly groups: number;
  readonly stages: number;
  readonly schedulers: number;
  readonly checkpointEveryMs: number;
  /** Keeps logs and NATS's data; a temporary folder if there is none. */
  readonly folder?: string;
}

export interface GroupMembers {
  readonly name: string;
  /** The driver first. */
  readonly ranks: readonly Member[];
}

const loopback = "127.0.0.1";

export class Cluster {
  readonly folder: string;
  readonly nats: NatsServer;
  readonly schedulers: readonly Member[];
  /** gRPC addresses of the schedulers. */
  readonly addresses: readonly string[];
  readonly groups: readonly GroupMembers[];
  readonly checkpointEveryMs: number;

  private constructor(
    options: ClusterOptions,
    folder: string,
    nats: NatsServer,
    ports: readonly number[],
  ) {
    this.folder = folder;
    this.nats = nats;
    this.checkpointEveryMs = options.checkpointEveryMs;
    this.addresses = ports.map((port) => `${loopback}:${port}`);
    this.schedulers = ports.map((port, replica) => scheduler(folder, nats.url, port, replica));
    this.groups = Array.from({ length: options.groups }, (_, group) => ({
      name: `g${group}`,
      ranks: groupRanks(folder, nats.url, group, options),
    }));
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const folder = options.folder ?? mkdtempSync(join(tmpdir(), "fluxline-chaos-"));
    mkdirSync(folder, { recursive: true });
    const nats = await startNats();
    const ports: number[] = [];
    while (ports.length < options.schedulers) ports.push(await freePort());
    const cluster = new Cluster(options, folder, nats, ports);
    try {
      await cluster.untilReady();
      return cluster;
    } catch (thrown) {
      await cluster.kill();
      throw thrown;
    }
  }

  get members(): readonly Member[] {
    return [...this.schedulers, ...this.groups.flatMap(({ ranks }) => ranks)];
  }

  /** Deaths that no strike explains. */
  get unplanned(): readonly Death[] {
    return this.members.flatMap((member) => member.unplanned);
  }

  async untilReady(): Promise<void> {
    await Promise.all(this.members.map((member) => member.untilReady()));
  }

  /** The member that a victim is, or whose child it is. */
  member(victim: Exclude<Victim, { part: "nats" }>): Member {
    const member =
      victim.part === "scheduler"
        ? this.schedulers[victim.replica]
        : this.groups[victim.group]?.ranks["rank" in victim ? victim.rank : 0];
    if (member === undefined) throw new Error(`there is no ${JSON.stringify(victim)}`);
    return member;
  }

  /** Asks a rank or a scheduler to end; a rank takes its group with it. Resolves to its exit code. */
  drain(victim: Exclude<Victim, { part: "nats" }>): Promise<number | null> {
    if ("group" in victim) {
      for (const rank of this.groups[victim.group]!.ranks) rank.allowLeaving();
    }
    return this.member(victim).end("SIGTERM");
  }

  /** Kills the runner of a rank; false if it has none at the moment. */
  killRunner(victim: Victim & { part: "runner" }): boolean {
    const [, runner] = this.member(victim).tree;
    return runner !== undefined && signalIfAlive(runner, "SIGKILL");
  }

  /** Holds every process of a group still; the returned function lets them go on. */
  freeze(group: number): () => void {
    const pids = this.groups[group]!.ranks.flatMap(({ tree }) => tree);
    for (const pid of pids) signalIfAlive(pid, "SIGSTOP");
    return () => {
      for (const pid of pids) signalIfAlive(pid, "SIGCONT");
    };
  }

  /** Asks everything to end, the groups first. Resolves to what did not end with 0. */
  async stop(): Promise<string[]> {
    const wrong: string[] = [];
    const end = async (members: readonly Member[]): Promise<void> => {
      const ends = members.map(async (member) => ({ member, code: await stopped(member) }));
      for (const { member, code } of await Promise.all(ends)) {
        if (code !== 0) wrong.push(`${member.spec.name} ended with ${code} when asked to end`);
      }
    };
    for (const rank of this.groups.flatMap(({ ranks }) => ranks)) {
      rank.allowLeaving();
      rank.stayAway();
    }
    await end(this.groups.map(({ ranks }) => ranks[0]!));
    await end(this.groups.flatMap(({ ranks }) => ranks.slice(1)));
    await end(this.schedulers);
    await this.nats.close();
    return wrong;
  }

  async kill(): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop("SIGKILL")));
    await this.nats.close();
  }

  removeFolder(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const STOP_MS_MAX = 40_000;

/** -1: it had to be killed. */
async function stopped(member: Member): Promise<number | null> {
  const ended = member.stop("SIGTERM");
  const late = sleep(STOP_MS_MAX, -1, { ref: false });
  const code = await Promise.race([ended, late]);
  if (code === -1) await member.stop("SIGKILL");
  return code;
}

function scheduler(folder: string, natsUrl: string, port: number, replica: number): Member {
  const name = `scheduler-${replica}`;
  return new Member({
    name,
    args: [service("scheduler")],
    environment: {
      FLUXLINE_HOST: loopback,
      FLUXLINE_PORT: String(port),
      FLUXLINE_NATS_URL: natsUrl,
      FLUXLINE_POOLS: "default",
      FLUXLINE_UNTIL_STDIN_ENDS: "on",
    },
    logFile: join(folder, `${name}.log`),
  });
}

function groupRanks(
  folder: string,
  natsUrl: string,
  group: number,
  { stages, checkpointEveryMs }: ClusterOptions,
): Member[] {
  const name = `g${group}`;
  const shared = ["--group", name, "--model", fluxTiny, "--threads", "1", "--exit-with-parent"];
  const address = (rank: number): string => `unix:${join(folder, `${name}-${rank}.sock`)}`;
  const ranks = Array.from({ length: stages }, (_, rank) => rank);
  return ranks.map((rank) => {
    const driver = ["serve", "--nats", natsUrl];
    driver.push("--checkpoint-every-ms", String(checkpointEveryMs));
    if (stages > 1) {
      const others = ranks.slice(1).map(address);
      driver.push("--stages", String(stages), "--stage-addresses", others.join(","));
    }
    const place = ["--rank", String(rank), "--stages", String(stages), "--listen", address(rank)];
    const own = rank === 0 ? driver : ["stage", ...place];
    const label = `${name}-${rank}`;
    return new Member({
      name: label,
      args: [service("gpu-node"), ...own, ...shared],
      environment: {},
      logFile: join(folder, `${label}.log`),
    });
  });
}

/** False if it has ended already. */
export function signalIfAlive(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw thrown;
  }
}
