/**
 * Questions that only the GPU node's program can answer, because only it knows runtimes and model
 * files: `fluxline devices`, `fluxline model inspect` and `fluxline plan`. It is started, asked, and gone.
 */
import { spawn } from "node:child_process";
import { AppError, type ErrorRecord, fromErrorRecord } from "@fluxline/kernel/error.ts";
import { exitCode, type ExitCode } from "../exit-code.ts";
import { unlessInterrupted } from "../interruption.ts";
import { printLine, type Session } from "../session.ts";
import { gpuNodeProgram } from "../stack/service-program.ts";
import { describeDevices, type DeviceList } from "../view/device-view.ts";
import { describeModel, type ModelReport } from "../view/model-view.ts";
import { describePlan, type PlanReport } from "../view/plan-view.ts";

const answerMsMax = 120_000;

export async function devices(json: boolean, session: Session): Promise<ExitCode> {
  const answer = await askGpuNode<DeviceList>(["devices"], session);
  printLine(session.stdout, json ? JSON.stringify(answer) : describeDevices(answer));
  return exitCode.ok;
}

export interface InspectOptions {
  readonly width?: number;
  readonly height?: number;
  readonly steps?: number;
  readonly json: boolean;
}

export async function inspectModel(
  folder: string,
  options: InspectOptions,
  session: Session,
): Promise<ExitCode> {
  const args = ["inspect", folder];
  for (const name of ["width", "height", "steps"] as const) {
    if (options[name] !== undefined) args.push(`--${name}`, String(options[name]));
  }
  const answer = await askGpuNode<ModelReport>(args, session);
  printLine(session.stdout, options.json ? JSON.stringify(answer) : describeModel(answer));
  return exitCode.ok;
}

export interface PlanOptions {
  readonly devices: string;
  readonly dtype?: string;
  readonly provider: string;
  readonly maxSize?: string;
  readonly maxBatch?: string;
  readonly linkGbit?: string;
  readonly json: boolean;
}

/** Exit code 1 if the model does not fit. */
export async function planModel(
  folder: string,
  options: PlanOptions,
  session: Session,
): Promise<ExitCode> {
  const args = ["plan", folder, "--devices", options.devices, "--provider", options.provider];
  const given = {
    dtype: options.dtype,
    "max-size": options.maxSize,
    "max-batch": options.maxBatch,
    "link-gbit": options.linkGbit,
  };
  for (const [name, value] of Object.entries(given)) {
    if (value !== undefined) args.push(`--${name}`, value);
  }
  const plan = await askGpuNode<PlanReport>(args, session);
  printLine(session.stdout, options.json ? JSON.stringify(plan) : describePlan(plan, folder));
  return plan.fits ? exitCode.ok : exitCode.failed;
}

/** The last line of its stdout is the answer, or the reason why there is none. */
async function askGpuNode<T>(args: readonly string[], session: Session): Promise<T> {
  const child = spawn(process.execPath, [gpuNodeProgram, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: session.environment,
    timeout: answerMsMax,
  });
  const said = { stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => (said.stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (said.stderr += chunk.toString()));
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.once("error", reject).once("close", () => resolve());
  try {
    await unlessInterrupted(session.interrupted, promise);
  } finally {
    child.kill("SIGKILL");
  }
  const answer = parseAnswer(said.stdout);
  if (answer === undefined) {
    const text = `the GPU node's program gave no answer: ${said.stderr.trim().slice(-2000)}`;
    throw new AppError("internal", text);
  }
  if (answer["event"] === "failed") throw fromErrorRecord(answer["error"] as ErrorRecord);
  return answer as T;
}

function parseAnswer(stdout: string): Record<string, unknown> | undefined {
  const line = stdout.trimEnd().split("\n").at(-1) ?? "";
  if (!line.startsWith("{")) return undefined;
  return JSON.parse(line) as Record<string, unknown>;
}
