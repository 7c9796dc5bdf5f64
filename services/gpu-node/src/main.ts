/**
 * The GPU node: `serve` drives a replica group, as its rank 0; `stage` is one of its other ranks;
 * `devices`, `inspect` and `plan` answer questions about this machine and about a model; `pull`,
 * `list`, `remove` and `verify` keep the cache of models. Logs go to stderr as JSON lines, answers to
 * stdout.
 */
import { availableParallelism } from "node:os";
import { AppError, invalidArgument, toAppError, toErrorRecord } from "@fluxline/kernel/error.ts";
import { Lifecycle } from "@fluxline/platform/lifecycle.ts";
import { createLog, type Logger, type LogLevel, logLevels } from "@fluxline/platform/log.ts";
import { optionsText, parseGroupOptions } from "./adapters/group-options.ts";
import { parseStageOptions } from "./adapters/stage-options.ts";

const USAGE = `usage: main.ts serve --model DIR [OPTION VALUE ...]
       main.ts stage --model DIR --stages N --rank K --listen ADDRESS [OPTION VALUE ...]
       main.ts devices
       main.ts inspect MODEL [--width N] [--height N] [--steps N]
       main.ts plan MODEL --devices 4x24GiB [--dtype TYPE] [--max-size WxH] [--max-batch N]
       main.ts pull --model MODEL [--revision R] [--needed | --stages N --rank K]
       main.ts list
       main.ts remove --model MODEL [--revision R]
       main.ts verify --model MODEL [--revision R]

A MODEL is a folder in diffusers layout, or org/name[@revision] of a hub. \`pull\` fetches all of it, or
what the graphs of all ranks (--needed) or of one rank read; it prints progress as JSON lines.

A group of N stages is one \`serve\` (rank 0, which drives it) and a \`stage\` for each of ranks 1 to
N-1; all are given the same model, --stages, --cuts, --place, --sequential and --decode-tile. An
ADDRESS is unix:/path or tcp://host:port. \`serve\` finds the stages by --stage-addresses
ADDRESS,ADDRESS,.. in the order of their ranks, or by --stage-address-template with {rank} in it.
  --stages N                  by default 1, or as many as --devices
  --devices 2x24GiB           memory of the devices in the order of ranks: blocks and components are
                              then placed as \`plan\` places them, for pictures up to --max-size in
                              steps of up to --max-batch rows, and requests are admitted by it
  --cuts 3,5                  first blocks of stages 1 and on; by default by the cost of blocks
  --place clip=0,t5=1,vae=cpu rank of each network beside the denoiser, or cpu for one at rank 0
  --sequential t5,vae         networks that are loaded for each use and let go after it
  --decode-tile 512           pixels along a side of the tiles in which larger pictures are decoded, a
                              multiple of 16 from 128; 0: whole. It is part of the numerics class
  --link-certificate, --link-key, --link-authority
                              PEM files for mutual TLS between ranks: all three or none
  --link-peer-names a,b       names of which a peer's certificate carries one; by default the group

options of serve, with their defaults:
${optionsText("serve")}

options of stage, with their defaults:
${optionsText("stage")}`;

async function serve(argv: readonly string[]): Promise<void> {
  const options = parseGroupOptions(argv, availableParallelism());
  process.title = `fluxline gpu-node driver ${options.group}`;
  const { ReplicaGroup } = await import("./adapters/replica-group.ts");
  await live(options.exitWithParent, async (log, lifecycle) => {
    const group = new ReplicaGroup(options, process.env, log, lifecycle, sayProgress);
    const { model, numericsClass } = await group.start();
    const { name, digest } = model.profile;
    return { group: options.group, model: name, digest, numericsClass };
  });
}

async function stage(argv: readonly string[]): Promise<void> {
  const options = parseStageOptions(argv, availableParallelism());
  process.title = `fluxline gpu-node stage ${options.rank} ${options.group}`;
  const { StageProcess } = await import("./adapters/stage-process.ts");
  await live(options.exitWithParent, async (log, lifecycle) => {
    const process_ = new StageProcess(options, process.env, log, lifecycle, sayProgress);
    return { group: options.group, rank: options.rank, ...(await process_.start()) };
  });
}

/** Starts, says that it is ready, runs until it is asked to end, and drains. */
async function live(
  exitWithParent: boolean,
  start: (log: Logger, lifecycle: Lifecycle) => Promise<object>,
): Promise<void> {
  const log = createLog("gpu-node", logLevel(process.env["FLUXLINE_LOG_LEVEL"] ?? "info"));
  const lifecycle = new Lifecycle(log);
  const running = lifecycle.run({ untilStdinEnds: exitWithParent });
  try {
    // A signal may come before it is up: nothing is placed on it then.
    const begun = await Promise.race([start(log, lifecycle), running]);
    if (typeof begun === "number") process.exit(process.exitCode ?? begun);
    say({ event: "ready", ...begun });
  } catch (thrown) {
    if (lifecycle.draining) {
      const code = await running;
      process.exit(process.exitCode ?? code);
    }
    // Known while draining: the stages wait for the next driver.
    process.exitCode = 1;
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

type Question = "devices" | "inspect" | "list" | "plan" | "remove";

async function answer(command: Question, argv: readonly string[]): Promise<void> {
  if (command === "devices") {
    const { listDevices } = await import("./adapters/device-list.ts");
    return say(await listDevices());
  }
  if (command === "inspect") {
    const { inspectModel } = await import("./adapters/model-inspection.ts");
    return say(await inspectModel(argv, process.env));
  }
  if (command === "plan") {
    const { planModel } = await import("./adapters/placement-report.ts");
    return say(await planModel(argv, process.env));
  }
  const { listModels, removeModel } = await import("./adapters/model-commands.ts");
  return say(await (command === "list" ? listModels(process.env) : removeModel(argv, process.env)));
}

/** Ends in order at a signal: what came so far is kept. */
async function work(command: "pull" | "verify", argv: readonly string[]): Promise<void> {
  const { pullModel, verifyModel } = await import("./adapters/model-commands.ts");
  const ending = new AbortController();
  const end = (): void => {
    const message = `${command}: ended by a signal; what came so far is kept`;
    ending.abort(new AppError("cancelled", message, { reason: "INTERRUPTED" }));
  };
  process.once("SIGINT", end).once("SIGTERM", end);
  const context = { environment: process.env, signal: ending.signal, say };
  say(await (command === "pull" ? pullModel(argv, context) : verifyModel(argv, context)));
}

function sayProgress(progress: object): void {
  say({ event: "progress", ...progress });
}

function say(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

async function main([command, ...argv]: readonly string[]): Promise<void> {
  switch (command) {
    case "serve":
      return serve(argv);
    case "stage":
      return stage(argv);
    case "pull":
    case "verify":
      return work(command, argv);
    case "devices":
    case "inspect":
    case "list":
    case "remove":
    case "plan":
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
