/**
 * The commands of `fluxline`, their options and what `--help` teaches. What a command does is loaded
 * only when it is called: help and mistakes answer at once.
 */
import { createRequire } from "node:module";
import { PREVIEW_COUNT_MAX } from "@fluxline/kernel/image-previews.ts";
import { Command, CommanderError, Option } from "commander";
import { exitCode, type ExitCode } from "./exit-code.ts";
import { RefusedValue, reportFailure } from "./failure.ts";
import { isInterruption } from "./interruption.ts";
import { port, processCount, realNumber, seed, threadCount, wholeNumber } from "./option-value.ts";
import { imageFormats } from "./output-file.ts";
import { printLine, type Session } from "./session.ts";
import { shippedModel } from "./shipped-model.ts";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };
const defaultPort = 50_051;
const defaultServer = `127.0.0.1:${defaultPort}`;
const jobStates = "queued assigned running cancelling succeeded failed cancelled expired".split(
  " ",
);

/** Runs one command line to its exit code; what it throws has been told to the user. */
export async function runCommandLine(argv: readonly string[], session: Session): Promise<ExitCode> {
  let outcome: ExitCode = exitCode.ok;
  const program = buildProgram(session, (code) => {
    outcome = code;
  });
  const json = argv.includes("--json");
  try {
    await program.parseAsync([...argv], { from: "user" });
    return outcome;
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      return thrown.exitCode === 0 ? exitCode.ok : exitCode.usage;
    }
    if (isInterruption(thrown)) {
      printLine(session.stderr, "interrupted");
      return exitCode.interrupted;
    }
    const refused = thrown instanceof RefusedValue;
    reportFailure(refused ? thrown.refusal : thrown, session, json);
    return refused ? exitCode.usage : exitCode.failed;
  }
}

type Finish = (code: ExitCode) => void;

export function buildProgram(session: Session, finish: Finish): Command {
  const program = new Command("fluxline")
    .description("Pictures from text, by FLUX.1 models, on this machine or on a server.")
    .version(version, "--version", "print the version")
    .exitOverride()
    .showHelpAfterError("(--help shows how it is used)")
    .configureOutput({
      writeOut: (text) => void session.stdout.write(text),
      writeErr: (text) => void session.stderr.write(text),
    })
    .addHelpText("after", topHelp);
  addGenerate(program, session, finish);
  addUp(program, session, finish);
  addJobs(program, session, finish);
  addDevices(program, session, finish);
  addModel(program, session, finish);
  addPlan(program, session, finish);
  return program;
}

const topHelp = `
Examples:
  A picture, with nothing running before or after:
    fluxline generate "a large red circle in the top left on a yellow background"

  A server on this machine, and pictures from it:
    fluxline up
    fluxline generate "a small blue square" --server ${defaultServer}
    fluxline jobs list

Exit codes: 0 done, 1 failed (the error says why), 2 wrong command line (nothing was started), 130 interrupted.

Machines: with --json, results are JSON on stdout and an error is one JSON object on stderr,
  {"error":{"code","reason","message","violations":[{"field","description"}], ...}}.
`;

function jsonOption(what: string): Option {
  return new Option("--json", `for machines: ${what}`).default(false);
}

function modelOption(): Option {
  return new Option("--model <MODEL>", "model folder, or org/name[@revision] of a hub").default(
    shippedModel,
    "flux-tiny, which comes with Fluxline",
  );
}

function threadsOption(what = "processor threads for the model (default: all)"): Option {
  return new Option("--threads <N>", what).argParser(threadCount);
}

const providers = ["cpu", "cuda", "tensorrt", "webgpu", "simulated"];
const runTypes = ["float32", "float16", "bfloat16", "int8"];

function providerOption(): Option {
  return new Option(
    "--provider <NAME>",
    "what the model runs on; `fluxline devices` lists what this machine has",
  )
    .choices(providers)
    .default("cpu");
}

function runTypeOption(): Option {
  return new Option(
    "--run-type <TYPE>",
    "numbers the model computes with; int8: most weights in 8 bits, made once and kept below " +
      "FLUXLINE_CACHE or ~/.cache/fluxline",
  )
    .choices(runTypes)
    .default("float32");
}

function sequentialOption(): Option {
  const parts = "of clip, t5 and vae, those loaded for each use and let go after it, like t5,vae";
  return new Option("--sequential <PARTS>", `${parts}: less memory, more time`);
}

function decodeTileOption(): Option {
  const what =
    "pixels along a side of the tiles in which larger pictures are decoded, a multiple of 16 from 128";
  return new Option("--decode-tile <N>", `${what}: less memory; 0: none`);
}

function addGenerate(program: Command, session: Session, finish: Finish): void {
  program
    .command("generate")
    .summary("draw a picture")
    .description(
      "Draws what PROMPT says. With --server it asks that server; without, it starts everything " +
        "it needs, draws, and stops it again. Everything left out is the model's default.",
    )
    .argument("<PROMPT>", "what to draw; - reads it from stdin")
    .option("--server <HOST:PORT>", "server to ask, instead of a private one")
    .addOption(modelOption().conflicts("server"))
    .addOption(threadsOption().conflicts("server"))
    .addOption(providerOption().conflicts("server"))
    .addOption(runTypeOption().conflicts("server"))
    .addOption(
      new Option(
        "--devices <LIST>",
        "plan stages for these and this picture, like 1x24GiB (fluxline plan)",
      ).conflicts("server"),
    )
    .addOption(sequentialOption().conflicts("server"))
    .addOption(decodeTileOption().conflicts("server"))
    .option("--pool <POOL>", "pool of the server (default: its only one)")
    .option("--prompt-2 <TEXT>", "text for the second encoder (default: PROMPT)")
    .option("--negative-prompt <TEXT>", "what not to draw; needs --true-cfg-scale above 1")
    .option(
      "--true-cfg-scale <X>",
      "strength of the negative prompt, from 0, like 2",
      realNumber(2),
    )
    .option("--steps <N>", "denoising steps, from 1, like 20", wholeNumber(20))
    .option("--guidance <X>", "how closely to follow the prompt, from 0, like 3.5", realNumber(3.5))
    .option("--width <N>", "pixels, a multiple of 16, from 16", wholeNumber(64))
    .option("--height <N>", "pixels, a multiple of 16, from 16", wholeNumber(64))
    .option("--seed <N>", "same seed, same picture; 0 to 2^64 - 1 (default: drawn)", seed)
    .option("--max-sequence-length <N>", "tokens of the text that count, from 1", wholeNumber(64))
    .option("--count <N>", "pictures from one seed, one after another, from 1", wholeNumber(1))
    .option(
      "--previews <N>",
      `small pictures of each picture on its way, 0 to ${PREVIEW_COUNT_MAX}, written as files`,
      wholeNumber(4, { min: 0, max: PREVIEW_COUNT_MAX }),
    )
    .option("--preview-dir <DIR>", "folder for them (default: beside the picture)")
    .addOption(new Option("--format <FORMAT>", "file format").choices([...imageFormats]))
    .option("--output <FILE>", "file to write (default: fluxline-SEED.png)")
    .option("--overwrite", "replace the file if it exists", false)
    .addOption(jsonOption("JSON lines on stdout: job events, then one with the files"))
    .addHelpText("after", generateHelp)
    .action(async (prompt: string, options) => {
      const { generate } = await import("./commands/generate.ts");
      finish(await generate(prompt, options, session));
    });
}

const generateHelp = `
Files: with --count 3, out.png becomes out-0.png, out-1.png, out-2.png. A file that exists is
replaced only with --overwrite. The names written are printed on stdout, all else on stderr.
With --previews 3, out-preview-01.png to out-preview-03.png come while out.png is drawn, one pixel
for 8 x 8 of the picture, evenly spread over the steps.

Ranges: how large pictures, steps and counts may be is the model's to say; the server names the
limit of a value that is too large.

Examples:
  fluxline generate "a small green triangle in the bottom right on a white background"
  fluxline generate "a red circle" --seed 7 --steps 30 --width 96 --height 64 --output circle.png
  fluxline generate "a red circle" --negative-prompt "a yellow background" --true-cfg-scale 2
  fluxline generate "a red circle" --server ${defaultServer} --count 4 --format webp
  fluxline generate "a red circle" --steps 50 --previews 4 --output circle.png
  fluxline generate "a red circle" --json | tail -n 1
`;

function addUp(program: Command, session: Session, finish: Finish): void {
  program
    .command("up")
    .summary("run a server on this machine")
    .description(
      "Runs nats-server, a scheduler and GPU nodes until Ctrl-C, which drains them: what is in " +
        "work is kept and goes on at the next start. A part that dies is started again.",
    )
    .addOption(modelOption())
    .addOption(
      new Option("--port <N>", "gRPC port on 127.0.0.1; 0 takes any free one")
        .default(defaultPort)
        .argParser(port),
    )
    .addOption(
      new Option("--nats-port <N>", "NATS port on 127.0.0.1; 0 takes any free one")
        .default(0)
        .argParser(port),
    )
    .option("--data <DIR>", "folder for jobs, pictures and logs", "fluxline-data")
    .option("--stages <S>", "processes that share one transformer (default: 1)", processCount)
    .option("--groups <G>", "replica groups, each with a whole model", processCount, 1)
    .addOption(
      threadsOption("processor threads of each GPU node process (default: all, shared out)"),
    )
    .addOption(providerOption())
    .addOption(runTypeOption())
    .option("--devices <LIST>", "plan stages for these, one each, like 2x24GiB (fluxline plan)")
    .option(
      "--max-size <WxH>",
      "with --devices: picture to plan for; larger ones that fit are taken too (default: 1024x1024)",
    )
    .option("--link-gbit <N>", "with --devices: rate between two stages (default: 10)")
    .option("--cuts <BLOCKS>", "first block of each later stage, like 3,5 (default: by block cost)")
    .option("--place <PARTS>", "rank, or cpu, of clip, t5 and vae, like t5=1,vae=cpu")
    .addOption(sequentialOption())
    .addOption(decodeTileOption())
    .option("--max-batch <N>", "rows of one step at most")
    .option("--batching <HOW>", "rows of a step: measured, as pays best, or full")
    .option("--max-residents <N>", "images in work in a group at most")
    .option(
      "--max-steps-in-flight <N>",
      "steps on their way through the stages (default: S, and one more from S 2 on)",
    )
    .option("--simulated-step-seconds <X>", "what a step takes with --provider simulated")
    .option("--checkpoint-every-ms <N>", "work between two checkpoints of an image; 0: none")
    .addOption(
      jsonOption("JSON lines on stdout: fetching, starting, ready, died, restarted, stopped"),
    )
    .addHelpText("after", upHelp)
    .action(async (options) => {
      const { up } = await import("./commands/up.ts");
      finish(await up(options, session));
    });
}

const upHelp = `
Examples:
  fluxline up
  fluxline up --model ~/models/FLUX.1-dev --port 6000 --data /var/lib/fluxline
  fluxline up --model black-forest-labs/FLUX.1-schnell
  fluxline up --stages 2 --groups 2

Two groups of two stages are four GPU node processes: a request runs in one group, its transformer
split over the group's stages, which work on different requests at the same time.
`;

function addJobs(program: Command, session: Session, finish: Finish): void {
  const jobs = program
    .command("jobs")
    .description("List, show, cancel, watch and save a server's jobs.");
  const load = () => import("./commands/jobs.ts");
  const command = (usage: string, description: string, json: string) =>
    jobs
      .command(usage)
      .description(description)
      .option("--server <HOST:PORT>", "server to ask", defaultServer)
      .option("--pool <POOL>", "pool (default: the server's only one)")
      .addOption(jsonOption(json));
  command("list", "The newest jobs.", "one document, {jobs: [...], more}")
    .option("--limit <N>", "at most this many", wholeNumber(20), 20)
    .addOption(new Option("--state <STATE>", "only those in this state").choices(jobStates))
    .action(async (options) => finish(await (await load()).listJobs(options, session)));
  command("get", "One job, in full.", "one document, the job")
    .argument("<JOB>", "its id, or pools/POOL/jobs/ID")
    .action(async (name, options) => finish(await (await load()).getJob(name, options, session)));
  command("cancel", "Stop a job at its next step.", "one document, the job")
    .argument("<JOB>", "its id, or pools/POOL/jobs/ID")
    .action(async (name, options) =>
      finish(await (await load()).cancelJob(name, options, session)),
    );
  command("watch", "Follow a job to its end; exit code 0 if it succeeded.", "JSON lines of events")
    .argument("<JOB>", "its id, or pools/POOL/jobs/ID")
    .option("--preview-dir <DIR>", "write the previews that the job was created with into it")
    .action(async (name, options) => finish(await (await load()).watchJob(name, options, session)));
  command("save", "Write a job's pictures to files.", "one document, {files: [...]}")
    .argument("<JOB>", "its id, or pools/POOL/jobs/ID")
    .option("--output <FILE>", "file to write (default: fluxline-SEED.png)")
    .option("--overwrite", "replace the file if it exists", false)
    .action(async (name, options) => finish(await (await load()).saveJob(name, options, session)));
  jobs.addHelpText("after", jobsHelp);
}

const jobsHelp = `
Examples:
  fluxline jobs list --state running
  fluxline jobs watch 01m83r5z4ws8q0a6vh2f3k9c7d
  fluxline jobs cancel pools/default/jobs/01m83r5z4ws8q0a6vh2f3k9c7d
  fluxline jobs save 01m83r5z4ws8q0a6vh2f3k9c7d --output circle.png
  fluxline jobs list --json --limit 1000
`;

function addDevices(program: Command, session: Session, finish: Finish): void {
  program
    .command("devices")
    .description("What this machine can run a model on: each provider runs a small graph.")
    .addOption(jsonOption("one document"))
    .action(async ({ json }) => {
      const { devices } = await import("./commands/machine.ts");
      finish(await devices(json, session));
    });
}

function addModel(program: Command, session: Session, finish: Finish): void {
  const model = program
    .command("model")
    .summary("look into models, and keep those that come from a hub")
    .description("Looks into models, and fetches, lists, verifies and removes those of a hub.")
    .addHelpText("after", modelHelp);
  model
    .command("inspect")
    .description(
      "Parts, sizes and types of a model, and what a request costs. Of a hub's model only small " +
        "files, headers and samples are fetched.",
    )
    .argument("<MODEL>", "model folder in diffusers layout, or org/name[@revision] of a hub")
    .option("--width <N>", "pixels of the request", wholeNumber(1024))
    .option("--height <N>", "pixels of the request", wholeNumber(1024))
    .option("--steps <N>", "steps of the request", wholeNumber(28))
    .addOption(jsonOption("one document"))
    .addHelpText("after", "\nExample:\n  fluxline model inspect models/flux-tiny --width 96\n")
    .action(async (name: string, options) => {
      const { inspectModel } = await import("./commands/machine.ts");
      finish(await inspectModel(name, options, session));
    });
  addCache(model, session, finish);
}

const modelHelp = `
A MODEL is a folder of this machine, or org/name[@revision] of a hub. What comes from a hub is kept in
a cache of Fluxline's own (FLUXLINE_CACHE, by default ~/.cache/fluxline) and shared by all processes;
what is in HF_HOME is used from there. docs/models.md has all settings.

Examples:
  fluxline model pull black-forest-labs/FLUX.1-schnell
  fluxline model list
  fluxline model verify black-forest-labs/FLUX.1-schnell
  fluxline model remove black-forest-labs/FLUX.1-schnell
`;

function addCache(model: Command, session: Session, finish: Finish): void {
  const load = () => import("./commands/models.ts");
  const revision = ["--revision <REVISION>", "branch, tag or commit (default: main)"] as const;
  const name = ["<MODEL>", "org/name[@revision] of a hub"] as const;
  model
    .command("pull")
    .summary("fetch a model of a hub")
    .description(
      "Fetches a model of a hub into the cache, whole, and compares it with the hub's digests. " +
        "What is there already is not fetched again; what breaks off goes on the next time.",
    )
    .argument(...name)
    .option(...revision)
    .addOption(
      new Option("--needed", "only what drawing reads, as `up` does")
        .default(false)
        .conflicts(["rank"]),
    )
    .option("--stages <S>", "with --rank: processes that share the transformer", processCount, 1)
    .option("--rank <K>", "only what rank K of a group reads", wholeNumber(0, { min: 0, max: 63 }))
    .option("--cuts <BLOCKS>", "with --rank: as given to `up`")
    .option("--place <PARTS>", "with --rank: as given to `up`")
    .addOption(jsonOption("JSON lines on stdout: fetching, then pulled"))
    .addHelpText("after", pullHelp)
    .action(async (of, options) => finish(await (await load()).pullModel(of, options, session)));
  model
    .command("list")
    .description("Models of hubs that are in the cache: what they take, who uses them.")
    .addOption(jsonOption("one document"))
    .addHelpText("after", "\nExample:\n  fluxline model list\n")
    .action(async (options) => finish(await (await load()).listModels(options, session)));
  model
    .command("remove")
    .description("Removes a model from the cache, all its commits or one, unless it is in use.")
    .argument(...name)
    .option("--revision <REVISION>", "only this one")
    .addOption(jsonOption("one document, {removed: [...], bytes}"))
    .addHelpText("after", "\nExample:\n  fluxline model remove black-forest-labs/FLUX.1-dev\n")
    .action(async (of, options) => finish(await (await load()).removeModel(of, options, session)));
  model
    .command("verify")
    .description(
      "Reads every file that is there whole and compares it with the digest in the hub's list. " +
        "One that differs is thrown away, and pull fetches it again.",
    )
    .argument(...name)
    .option(...revision)
    .addOption(jsonOption("JSON lines on stdout: verifying, then verified"))
    .addHelpText("after", "\nExample:\n  fluxline model verify black-forest-labs/FLUX.1-dev\n")
    .action(async (of, options) => finish(await (await load()).verifyModel(of, options, session)));
}

const pullHelp = `
Settings, from the environment: HF_ENDPOINT (a mirror), HF_TOKEN (gated and private models),
HF_HUB_OFFLINE=1 (ask no hub), FLUXLINE_CACHE (folder), FLUXLINE_CACHE_MAX (like 200GiB).

Examples:
  fluxline model pull black-forest-labs/FLUX.1-schnell
  fluxline model pull black-forest-labs/FLUX.1-dev --revision main --needed
  fluxline model pull black-forest-labs/FLUX.1-dev --stages 4 --rank 2
`;

function addPlan(program: Command, session: Session, finish: Finish): void {
  program
    .command("plan")
    .summary("what fits on which devices")
    .description(
      "Cuts the model into stages, one for each device, and places its other parts, so that " +
        "the slowest device is as fast as can be and each fits its memory. A folder with config " +
        "files and no weights will do; of a hub's model only headers are fetched. Exit code 1 if " +
        "it does not fit.",
    )
    .argument("<MODEL>", "model folder in diffusers layout, or org/name[@revision] of a hub")
    .requiredOption("--devices <LIST>", "like 4x24GiB, or 1xH100,2x24GiB")
    .option(
      "--dtype <TYPE>",
      "as --run-type of `up`: float32, float16, bfloat16 or int8 (default: bfloat16, on a cpu float32)",
    )
    .addOption(
      new Option("--provider <NAME>", "what the devices run the model with")
        .choices(providers)
        .default("cuda"),
    )
    .option("--max-size <WxH>", "largest picture to be drawn (default: 1024x1024)")
    .option("--max-batch <N>", "rows of one step at most (default: 4)")
    .option("--link-gbit <N>", "rate between neighbouring devices (default: 10)")
    .addOption(jsonOption("one document"))
    .addHelpText("after", planHelp)
    .action(async (folder: string, options) => {
      const { planModel } = await import("./commands/machine.ts");
      finish(await planModel(folder, options, session));
    });
}

const planHelp = `
Devices are a count and a memory with its unit (GiB or GB), or a name of which memory and published
speed are known: H200, H100, A100-80GB, A100-40GB, L20. Give what is free to a program: a card of
24 GB that also drives a screen has less. Ranks come in the order of the table; start them on their
devices in that order.

Examples:
  fluxline plan ~/models/FLUX.1-dev --devices 1x24GiB --dtype int8
  fluxline plan ~/models/FLUX.1-dev --devices 4x16GiB --max-size 1024x768 --max-batch 1
  fluxline plan docs/examples/flux1-dev-geometry --devices 1xH100,2x24GiB --json
  fluxline up --model ~/models/FLUX.1-dev --devices 2x24GiB --run-type bfloat16 --provider cuda

Formulas, and how well they agree with measurement: docs/sizing.md.
`;
