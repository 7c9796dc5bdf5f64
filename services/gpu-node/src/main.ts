/**
 * The GPU node: `serve` runs a replica group; `devices` and `inspect` answer questions about this
 * machine and about a model folder. Logs go to stderr as JSON lines, answers to stdout.
 */
import { availableParallelism } from "node:os";
import { AppError, invalidArgument, toAppError, toErrorRecord } from "@fluxline/kernel/error.ts";
import { Lifecycle } from "@fluxline/platform/lifecycle.ts";
import { createLog, type LogLevel, logLevels } from "@fluxline/platform/log.ts";
import { optionsText, parseGroupOptions } from "./adapters/group-options.ts";

const USAGE = `usage: main.ts serve --model DIR [OPTION VALUE ...]
       main.ts devices
       main.ts inspect DIR [--width N] [--height N] [--steps N]

options of serve, with their defaults:
${optionsText()}`;

async function serve(argv: readonly string[]): Promise<void> {
  const options = parseGroupOptions(argv, availableParallelism());
  process.title = "fluxline gpu-node driver";
  const log = createLog("gpu-node", logLevel(process.env["FLUXLINE_LOG_LEVEL"] ?? "info"));
  const lifecycle = new Lifecycle(log);
  const { ReplicaGroup } = await import("./adapters/replica-group.ts");
  const group = new ReplicaGroup(options, process.env, log, lifecycle);
  const running = lifecycle.run({ untilStdinEnds: options.exitWithParent });
  try {
    // A signal may come before the group is up: nothing is placed on it then.
    const begun = await Promise.race([group.start(), running]);
    if (typeof begun === "number") process.exit(process.exitCode ?? begun);
    const { name, digest } = begun.model.profile;
    const { numericsClass } = begun;
    say({ event: "ready", group: options.group, model: name, digest, numericsClass });
  } catch (thrown) {
    if (lifecycle.draining) process.exit(await running);
    await lifecycle.drain();
    throw thrown;
  }
  const code = await running;
  process.exit(process.exitCode ?? code);
}

function logLevel(text: string): LogLevel {
  const level = logLevels.find((known) => known === text);
  if (level !== undefined) return level;
  const description = `is "${text}"; use ${logLevels.join(", ")}`;
  throw invalidArgument([{ field: "FLUXLINE_LOG_LEVEL", description }], "INVALID_CONFIG");
}

async function answer(command: "devices" | "inspect", argv: readonly string[]): Promise<void> {
  if (command === "devices") {
    const { listDevices } = await import("./adapters/device-list.ts");
    return say(await listDevices());
  }
  const { inspectFolder } = await import("./adapters/model-inspection.ts");
  return say(await inspectFolder(argv));
}

function say(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

async function main([command, ...argv]: readonly string[]): Promise<void> {
  switch (command) {
    case "serve":
      return serve(argv);
    case "devices":
    case "inspect":
      return answer(command, argv);
    case "--help":
      console.log(USAGE);
      return;
    default:
      throw new AppError("invalid_argument", `no command ${command ?? ""}\n${USAGE}`);
  }
}

// onnxruntime reports its use to its maker and leaves files in the temporary folder for that, unless
// this is set before it is loaded, here or in the runner, which inherits it.
process.env["ORT_DISABLE_TELEMETRY"] ??= "1";

try {
  await main(process.argv.slice(2));
} catch (thrown) {
  // One line for a parent that reads it, then the end: nothing was begun that could be lost.
  say({ event: "failed", error: toErrorRecord(thrown) });
  console.error(toAppError(thrown).message);
  process.exit(1);
}
