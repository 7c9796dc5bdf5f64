/** The answer of `main.ts plan`: what goes where, what it takes, and what would make it fit. */
import { parseArgs } from "node:util";
import { AppError, type FieldViolation, invalidArgument } from "@fluxline/kernel/error.ts";
import { type MemoryBound, memoryNeed } from "@fluxline/kernel/memory-bound.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import {
  DEVICE_NAMES,
  type DeviceOffer,
  devicesText,
  parseDevices,
  readSize,
} from "../core/device-offer.ts";
import { type Precision, PRECISIONS } from "../core/precision.ts";
import type { Placement, PlacedComponent } from "../core/placement.ts";
import type { BlockRange } from "../core/stage-plan.ts";
import { computeType } from "../models/loaded-bytes.ts";
import { type PlanChange, smallestChanges } from "../models/plan-change.ts";
import {
  GBIT_BYTES,
  hostMemory,
  LINK_GBIT_DEFAULT,
  LINK_GBIT_MAX,
  type PoolPlan,
  type PoolPlanRequest,
  planPool,
  RESERVE,
} from "../models/pool-plan.ts";
import { openGeometry } from "./checkpoint-folder.ts";
import type { Environment } from "./cache-folder.ts";
import { isFolder, openModel } from "./model-source.ts";
import { PROVIDERS } from "./runner/arguments.ts";

export interface StageReport {
  readonly rank: number;
  readonly device: string;
  readonly memoryBytes: number;
  readonly blocks: BlockRange;
  readonly weightBytes: number;
  readonly workingBytes: number;
  readonly components: readonly PlacedComponent[];
  readonly runtimeBytes: number;
  readonly needBytes: number;
  readonly freeBytes: number;
  /** What is missing of its memory, a reserve kept free; 0: it fits. */
  readonly shortfallBytes: number;
  /** Of the seconds that all devices spend on a step. */
  readonly share: number;
  /** Of the seconds of the slowest resource. */
  readonly busy: number;
}

export interface PlacementReport {
  readonly name: string;
  readonly fits: boolean;
  readonly dtype: Precision;
  readonly computeType: string;
  readonly provider: string;
  readonly width: number;
  readonly height: number;
  readonly rows: number;
  readonly textTokens: number;
  readonly steps: number;
  readonly linkGbit: number;
  readonly stages: readonly StageReport[];
  /** On the processor beside rank 0. */
  readonly host: { readonly components: readonly string[]; readonly bytes: number };
  /** Pixels along a side; 0: whole pictures. */
  readonly decodeTile: number;
  readonly bottleneck: string;
  /** Where the speed of all devices was published, for 16-bit numbers. */
  readonly pace?: {
    readonly stepSeconds: number;
    readonly stepsPerSecond: number;
    readonly imagesPerMinute: number;
  };
  readonly shortfallBytes: number;
  readonly changes: readonly PlanChange[];
  /** What the pool's profile says, per rank: what requests are admitted by. */
  readonly memory: readonly MemoryBound[];
  /** For `fluxline up`, `serve` and `stage`: they come to this plan by themselves. */
  readonly devices: string;
}

const OPTIONS = {
  devices: { type: "string" },
  dtype: { type: "string" },
  provider: { type: "string", default: "cuda" },
  "max-size": { type: "string", default: "1024x1024" },
  "max-batch": { type: "string", default: "4" },
  "link-gbit": { type: "string", default: String(LINK_GBIT_DEFAULT) },
} as const;
const ROWS_MAX = 64;

interface PlanQuestion {
  readonly model: string;
  readonly devices: readonly DeviceOffer[];
  readonly precision: Precision;
  readonly provider: string;
  readonly width: number;
  readonly height: number;
  readonly rows: number;
  readonly linkGbit: number;
}

/** @throws AppError naming every option that is wrong, or what is wrong with the model's configs */
export async function planModel(
  argv: readonly string[],
  environment: Environment,
): Promise<PlacementReport> {
  const question = parse(argv);
  const { model, linkGbit, ...rest } = question;
  // Of a hub's model the headers are fetched; of a folder's not even they are needed.
  const checkpoint = isFolder(model)
    ? await openGeometry(model)
    : (await openModel(model, environment)).checkpoint;
  const linkBytesPerSecond = linkGbit * GBIT_BYTES;
  const request = { ...rest, linkBytesPerSecond, order: "any" as const };
  const plan = planPool(checkpoint, request);
  const { result, memory, demand, steps } = plan;
  const { placement } = result;
  const { precision, provider, width, height, rows } = question;
  const shortfallBytes = result.fits ? 0 : Math.ceil(result.shortfallBytes);
  return {
    name: checkpoint.name,
    fits: result.fits,
    dtype: precision,
    computeType: computeType(precision, provider),
    provider,
    width,
    height,
    rows,
    textTokens: demand.textTokens,
    steps,
    linkGbit,
    stages: stageReports(plan),
    host: { components: placement.host.components, bytes: hostBytes(checkpoint, request, plan) },
    decodeTile: placement.decodeTile,
    bottleneck: placement.bottleneck.resource,
    ...pace(question, placement, steps),
    shortfallBytes,
    changes: result.fits ? [] : smallestChanges(checkpoint, request, shortfallBytes),
    memory,
    devices: devicesText(placement.stages.map(({ device }) => device)),
  };
}

function stageReports({ result, runtimeBytes }: PoolPlan): StageReport[] {
  const { stages, bottleneck } = result.placement;
  const whole = stages.reduce((sum, { seconds }) => sum + seconds, 0);
  return stages.map((stage, rank) => ({
    rank,
    device: stage.device.kind,
    memoryBytes: stage.device.memoryBytes,
    blocks: stage.blocks,
    weightBytes: stage.weightBytes,
    workingBytes: Math.ceil(stage.workingBytes),
    components: stage.components.map((part) => {
      return { ...part, workingBytes: Math.ceil(part.workingBytes) };
    }),
    runtimeBytes,
    needBytes: Math.ceil(stage.needBytes),
    freeBytes: Math.floor(stage.device.memoryBytes - stage.needBytes),
    shortfallBytes: Math.ceil(
      Math.max(0, stage.needBytes - stage.device.memoryBytes * (1 - RESERVE)),
    ),
    share: stage.seconds / whole,
    busy: stage.seconds / bottleneck.seconds,
  }));
}

/** Of the host's memory, which `--devices` says nothing of. */
function hostBytes(checkpoint: Checkpoint, request: PoolPlanRequest, plan: PoolPlan): number {
  const bounds = hostMemory(checkpoint, request, plan, 0);
  return bounds.reduce((sum, bound) => sum + memoryNeed(bound, plan.demand), 0);
}

function pace(
  { devices, precision }: PlanQuestion,
  { bottleneck }: Placement,
  steps: number,
): Pick<PlacementReport, "pace"> {
  const inSixteenBits = precision === "bfloat16" || precision === "float16";
  if (!inSixteenBits || devices.some(({ isSpeedKnown }) => !isSpeedKnown)) return {};
  const stepsPerSecond = 1 / bottleneck.seconds;
  const imagesPerMinute = (60 * stepsPerSecond) / steps;
  return { pace: { stepSeconds: bottleneck.seconds, stepsPerSecond, imagesPerMinute } };
}

function parse(argv: readonly string[]): PlanQuestion {
  const { values, positionals } = parseOptions(argv);
  const violations: FieldViolation[] = [];
  const wrong = (field: string, description: string): void => {
    violations.push({ field, description });
  };
  const [model = ""] = positionals;
  if (positionals.length !== 1)
    wrong("MODEL", "is missing; give a model folder, or org/name of a hub");
  const provider = PROVIDERS.find((known) => known === values.provider) ?? "cpu";
  if (provider !== values.provider) {
    wrong("--provider", `is ${values.provider}; use ${PROVIDERS.join(", ")}`);
  }
  const asked = values.dtype ?? (provider === "cpu" ? "float32" : "bfloat16");
  const precision = PRECISIONS.find((known) => known === asked);
  if (precision === undefined) wrong("--dtype", `is ${asked}; use ${PRECISIONS.join(", ")}`);
  if (precision === "bfloat16" && provider === "cpu") {
    wrong(
      "--dtype",
      "is bfloat16, in which provider cpu does not compute; use float32, int8 or float16",
    );
  }
  const devices = readDevices(values.devices, provider, violations);
  const { width, height } = readSize(values["max-size"], violations);
  const whole = (name: "max-batch" | "link-gbit", max: number): number => {
    const value = Number(values[name]);
    if (/^\d{1,6}$/.test(values[name]) && value >= 1 && value <= max) return value;
    wrong(`--${name}`, `is ${values[name]}; use a whole number from 1 to ${max}`);
    return 1;
  };
  const [rows, linkGbit] = [whole("max-batch", ROWS_MAX), whole("link-gbit", LINK_GBIT_MAX)];
  if (violations.length > 0) throw invalidArgument(violations, "INVALID_OPTIONS");
  return { model, devices, precision: precision!, provider, width, height, rows, linkGbit };
}

function parseOptions(argv: readonly string[]) {
  try {
    return parseArgs({ args: [...argv], options: OPTIONS, allowPositionals: true });
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new AppError("invalid_argument", message, { reason: "INVALID_OPTIONS", cause });
  }
}

function readDevices(
  text: string | undefined,
  provider: string,
  violations: FieldViolation[],
): readonly DeviceOffer[] {
  if (text === undefined) {
    const names = DEVICE_NAMES.join(", ");
    const description = `is missing; give a list like 4x24GiB, or of ${names}`;
    violations.push({ field: "--devices", description });
    return [];
  }
  const parsed = parseDevices(text, provider);
  violations.push(...parsed.violations);
  return parsed.devices;
}
