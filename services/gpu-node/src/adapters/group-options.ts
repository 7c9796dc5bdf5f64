/** Command line of `serve`: what a replica group is told at its start. */
import { parseArgs } from "node:util";
import { AppError, type FieldViolation, invalidArgument } from "@fluxline/kernel/error.ts";
import { isToken } from "@fluxline/platform/bus/topology.ts";
import type { CheckpointLimits } from "../core/checkpoint-policy.ts";
import type { RunType } from "../onnx/graph.ts";
import { type Provider, PROVIDERS } from "./runner/arguments.ts";

export interface GroupOptions {
  readonly nats: string;
  readonly pool: string;
  readonly group: string;
  readonly model: string;
  readonly provider: Provider;
  readonly threads: number;
  readonly runType: RunType;
  readonly rowsMax: number;
  readonly residentsMax: number;
  readonly checkpoints: CheckpointLimits;
  /** Seconds of one step, for provider `simulated` only. */
  readonly simulatedStepSeconds: number;
  readonly exitWithParent: boolean;
}

const RUN_TYPES: readonly RunType[] = ["float32", "float16", "bfloat16"];
const MIB = 1024 * 1024;
const THREADS_MAX = 1024;
const ROWS_MAX = 64;
const RESIDENTS_MAX = 1024;
const SIMULATED_STEP_SECONDS_MAX = 3600;
const CHECKPOINT_EVERY_MS_MAX = 3_600_000;
const CHECKPOINT_EVERY_MS_DEFAULT = "2000";
const CHECKPOINT_MIB_PER_SECOND_MAX = 10_000;
const CHECKPOINT_MIB_PER_SECOND_DEFAULT = "32";
const ROWS_DEFAULT = "4";
const RESIDENTS_DEFAULT = "8";

const OPTIONS = {
  nats: { type: "string", default: "nats://127.0.0.1:4222" },
  pool: { type: "string", default: "default" },
  group: { type: "string", default: "g0" },
  model: { type: "string" },
  provider: { type: "string", default: "cpu" },
  threads: { type: "string" },
  "run-type": { type: "string", default: "float32" },
  "max-batch": { type: "string", default: ROWS_DEFAULT },
  "max-residents": { type: "string", default: RESIDENTS_DEFAULT },
  "checkpoint-every-ms": { type: "string", default: CHECKPOINT_EVERY_MS_DEFAULT },
  "checkpoint-mib-per-second": { type: "string", default: CHECKPOINT_MIB_PER_SECOND_DEFAULT },
  "simulated-step-seconds": { type: "string", default: "0.05" },
  "exit-with-parent": { type: "boolean", default: false },
} as const;

/** Throws one INVALID_ARGUMENT that names every wrong option. */
export function parseGroupOptions(argv: readonly string[], cores: number): GroupOptions {
  const values = parse(argv);
  const violations: FieldViolation[] = [];
  const whole = (field: keyof typeof values, text: string, max: number, min = 1): number => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    violations.push({ field: `--${field}`, description: `is ${text}; use ${min} to ${max}` });
    return min;
  };
  const id = (field: "pool" | "group"): string => {
    const value = values[field];
    if (isToken(value)) return value;
    const rule = "use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";
    violations.push({ field: `--${field}`, description: `is "${value}"; ${rule}` });
    return value;
  };
  const runType = RUN_TYPES.find((type) => type === values["run-type"]);
  if (runType === undefined) {
    const description = `is ${values["run-type"]}; use ${RUN_TYPES.join(", ")}`;
    violations.push({ field: "--run-type", description });
  }
  if (values.model === undefined) {
    violations.push({ field: "--model", description: "is missing; give a model folder" });
  }
  const stepSeconds = Number(values["simulated-step-seconds"]);
  if (!(stepSeconds >= 0 && stepSeconds <= SIMULATED_STEP_SECONDS_MAX)) {
    const description = `is ${values["simulated-step-seconds"]}; use 0 to ${SIMULATED_STEP_SECONDS_MAX}`;
    violations.push({ field: "--simulated-step-seconds", description });
  }
  const provider = PROVIDERS.find((known) => known === values.provider);
  if (provider === undefined) {
    const description = `is ${values.provider}; use ${PROVIDERS.join(", ")}`;
    violations.push({ field: "--provider", description });
  }
  const options: GroupOptions = {
    nats: values.nats,
    pool: id("pool"),
    group: id("group"),
    model: values.model ?? "",
    provider: provider ?? "cpu",
    threads: whole("threads", values.threads ?? String(cores), THREADS_MAX),
    runType: runType ?? "float32",
    rowsMax: whole("max-batch", values["max-batch"], ROWS_MAX),
    residentsMax: whole("max-residents", values["max-residents"], RESIDENTS_MAX),
    checkpoints: {
      everyMs: whole(
        "checkpoint-every-ms",
        values["checkpoint-every-ms"],
        CHECKPOINT_EVERY_MS_MAX,
        0,
      ),
      bytesPerSecondMax:
        MIB *
        whole(
          "checkpoint-mib-per-second",
          values["checkpoint-mib-per-second"],
          CHECKPOINT_MIB_PER_SECOND_MAX,
        ),
    },
    simulatedStepSeconds: stepSeconds,
    exitWithParent: values["exit-with-parent"],
  };
  if (violations.length > 0) throw invalidArgument(violations, "INVALID_OPTIONS");
  return options;
}

/** The options as lines of help. */
export function optionsText(): string {
  const names = Object.entries(OPTIONS) as [string, { default?: string | boolean }][];
  return names.map(([name, option]) => `  --${name.padEnd(28)}${option.default ?? ""}`).join("\n");
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({ args: [...argv], options: OPTIONS }).values;
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new AppError("invalid_argument", message, { reason: "INVALID_OPTIONS", cause });
  }
}
