/**
 * Questions that only the GPU node's program can answer, because only it knows runtimes and model
 * files: `fluxline devices`, `fluxline model inspect` and `fluxline plan`. It is started, asked, and gone.
 */
import { exitCode, type ExitCode } from "../exit-code.ts";
import { printLine, type Session } from "../session.ts";
import { askGpuNode } from "../stack/gpu-node-question.ts";
import { describeDevices, type DeviceList } from "../view/device-view.ts";
import { describeModel, type ModelReport } from "../view/model-view.ts";
import { describePlan, type PlanReport } from "../view/plan-view.ts";

/** A model of a hub has its headers to be fetched. */
const headersMsMax = 600_000;

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
  model: string,
  options: InspectOptions,
  session: Session,
): Promise<ExitCode> {
  const args = ["inspect", model];
  for (const name of ["width", "height", "steps"] as const) {
    if (options[name] !== undefined) args.push(`--${name}`, String(options[name]));
  }
  const answer = await askGpuNode<ModelReport>(args, session, { msMax: headersMsMax });
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
  const plan = await askGpuNode<PlanReport>(args, session, { msMax: headersMsMax });
  printLine(session.stdout, options.json ? JSON.stringify(plan) : describePlan(plan, folder));
  return plan.fits ? exitCode.ok : exitCode.failed;
}
