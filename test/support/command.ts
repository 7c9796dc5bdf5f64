/** Runs the real `fluxline`, as a user would, and knows every process that it started. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { markedEnvironment, type MarkedProcess, markedProcesses } from "./process-list.ts";
import { until } from "./until.ts";

export const repository = fileURLToPath(new URL("../../", import.meta.url));
/** A checkpoint of random weights that is drawn from in a moment. */
export const smallModel = `${repository}test/golden/data/checkpoints/dev-like`;

const launcher = `${repository}services/cli/bin/fluxline.mjs`;
const commandMsMax = 100_000;
const goneMsMax = 20_000;

export interface CommandOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running command; `stop` sends what Ctrl-C sends. */
export class RunningCommand {
  readonly ended: Promise<Ended>;
  readonly #mark = randomUUID();
  readonly #process: ChildProcess;
  readonly #lines: string[] = [];
  readonly #onLine = new Set<() => void>();

  constructor(
    file: string,
    args: readonly string[],
    options: CommandOptions = {},
    msMax = commandMsMax,
  ) {
    const env = { ...process.env, ...markedEnvironment(this.#mark), ...options.env };
    this.#process = spawn(file, args, { cwd: options.cwd ?? repository, env });
    this.#process.stdin?.on("error", () => undefined);
    this.#process.stdin?.end(options.stdin ?? "");
    const said = { stdout: "", stderr: "" };
    this.#process.stdout?.on("data", (chunk: Buffer) => (said.stdout += chunk.toString()));
    this.#process.stderr?.on("data", (chunk: Buffer) => (said.stderr += chunk.toString()));
    for (const stream of [this.#process.stdout!, this.#process.stderr!]) {
      createInterface({ input: stream }).on("line", (line) => {
        this.#lines.push(line);
        for (const tell of this.#onLine) tell();
      });
    }
    this.ended = new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.killAll();
        reject(new Error(`${args.join(" ")} did not end\n${said.stdout}\n${said.stderr}`));
      }, msMax);
      this.#process.once("error", reject);
      this.#process.once("close", (code, signal) => {
        clearTimeout(timer);
        resolve({ code, signal, ...said });
      });
    });
    this.ended.catch(() => undefined);
  }

  get pid(): number {
    return this.#process.pid ?? -1;
  }

  get lines(): readonly string[] {
    return this.#lines;
  }

  /** Every process that it started and that lives. */
  get processes(): readonly MarkedProcess[] {
    return markedProcesses(this.#mark);
  }

  /** The one living process whose command line holds this text. */
  process(text: string): MarkedProcess {
    const found = this.processes.filter(({ command }) => command.includes(text));
    const [only] = found;
    if (found.length === 1 && only !== undefined) return only;
    const all = this.processes.map(({ command }) => command).join("\n");
    throw new Error(`${found.length} processes match ${text}; there are:\n${all}`);
  }

  /** The first line, of those to come or those there, for which `match` is true. */
  line(match: (line: string) => boolean): Promise<string> {
    return new Promise((resolve, reject) => {
      const look = () => {
        const found = this.#lines.find(match);
        if (found === undefined) return;
        this.#onLine.delete(look);
        resolve(found);
      };
      this.#onLine.add(look);
      look();
      this.ended.then(
        ({ stdout, stderr }) => reject(new Error(`it ended first:\n${stdout}\n${stderr}`)),
        reject,
      );
    });
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  async stop(): Promise<Ended> {
    this.signal("SIGINT");
    return this.ended;
  }

  /** Waits until nothing of it lives; throws with what still does. */
  async untilGone(): Promise<void> {
    try {
      await until(() => this.processes.length === 0, goneMsMax);
    } catch {
      const left = this.processes.map(({ pid, command }) => `${pid} ${command}`);
      throw new Error(`still alive:\n${left.join("\n")}`);
    }
  }

  /** For the end of a test that failed: nothing may be left. */
  killAll(): void {
    for (const { pid } of this.processes) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It was faster.
      }
    }
  }
}

export function startFluxline(
  args: readonly string[],
  options?: CommandOptions,
  msMax?: number,
): RunningCommand {
  return new RunningCommand(process.execPath, [launcher, ...args], options, msMax);
}

export async function fluxline(args: readonly string[], options?: CommandOptions): Promise<Ended> {
  return startFluxline(args, options).ended;
}

export interface RunningServer {
  readonly command: RunningCommand;
  readonly address: string;
  readonly nats: string;
}

/** `fluxline up` on free ports, ready. */
export async function startServer(
  args: readonly string[],
  options?: CommandOptions,
  msMax?: number,
): Promise<RunningServer> {
  const command = startFluxline(["up", "--json", "--port", "0", ...args], options, msMax);
  const ready = await command.line((line) => line.includes('"event":"ready"'));
  const { address, nats }: { address: string; nats: string } = JSON.parse(ready);
  return { command, address, nats };
}
