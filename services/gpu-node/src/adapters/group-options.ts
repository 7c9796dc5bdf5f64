/** Command line of `serve`: what rank 0 of a replica group is told at its start. */
import type { CheckpointLimits } from "../core/checkpoint-policy.ts";
import type { Batching } from "../core/step-batcher.ts";
import type { LinkAddress } from "./stage-link/link-address.ts";
import {
  OptionReader,
  RANK_OPTIONS,
  type RankOptions,
  readRankOptions,
  STAGE_OPTIONS,
} from "./stage-options.ts";

export interface GroupOptions extends RankOptions {
  readonly nats: string;
  readonly residentsMax: number;
  /** How a batch's size is chosen: by measured cost, or as full as can be. */
  readonly batching: Batching;
  /** Undefined: as many as suit the number of stages. */
  readonly stepsInFlightMax: number | undefined;
  readonly checkpoints: CheckpointLimits;
  /** Where ranks 1 to the last listen, in order. */
  readonly stageAddresses: readonly LinkAddress[];
  /** How long a rank may be away before the group hands back what it has. */
  readonly stageAwayMsMax: number;
}

const BATCHINGS: readonly Batching[] = ["measured", "full"];
const MIB = 1024 * 1024;
const RESIDENTS_MAX = 1024;
const STEPS_IN_FLIGHT_MAX = 128;
const CHECKPOINT_EVERY_MS_MAX = 3_600_000;
const CHECKPOINT_MIB_PER_SECOND_MAX = 10_000;
const STAGE_AWAY_SECONDS_MAX = 3_600;
const RANK_MARK = "{rank}";

const SERVE_OPTIONS = {
  nats: { type: "string", default: "nats://127.0.0.1:4222" },
  ...RANK_OPTIONS,
  "stage-addresses": { type: "string" },
  "stage-address-template": { type: "string" },
  "stage-away-seconds": { type: "string", default: "30" },
  batching: { type: "string", default: "measured" },
  "max-residents": { type: "string", default: "8" },
  "max-steps-in-flight": { type: "string" },
  "checkpoint-every-ms": { type: "string", default: "2000" },
  "checkpoint-mib-per-second": { type: "string", default: "32" },
} as const;

/** Throws one INVALID_ARGUMENT that names every wrong option. */
export function parseGroupOptions(argv: readonly string[], cores: number): GroupOptions {
  const reader = new OptionReader(argv, SERVE_OPTIONS);
  const shared = readRankOptions(reader, cores);
  const inFlight = reader.text("max-steps-in-flight");
  const options: GroupOptions = {
    ...shared,
    nats: reader.text("nats")!,
    residentsMax: reader.whole("max-residents", { max: RESIDENTS_MAX }),
    batching: reader.oneOf("batching", BATCHINGS, "measured"),
    stepsInFlightMax:
      inFlight === undefined
        ? undefined
        : reader.whole("max-steps-in-flight", { max: STEPS_IN_FLIGHT_MAX }),
    checkpoints: {
      everyMs: reader.whole("checkpoint-every-ms", { min: 0, max: CHECKPOINT_EVERY_MS_MAX }),
      bytesPerSecondMax:
        MIB * reader.whole("checkpoint-mib-per-second", { max: CHECKPOINT_MIB_PER_SECOND_MAX }),
    },
    stageAddresses: readStageAddresses(reader, shared.stages),
    stageAwayMsMax: 1000 * reader.seconds("stage-away-seconds", STAGE_AWAY_SECONDS_MAX),
  };
  reader.finish();
  return options;
}

/** The options of a command as lines of help. */
export function optionsText(command: "serve" | "stage"): string {
  const options = command === "serve" ? SERVE_OPTIONS : STAGE_OPTIONS;
  const names = Object.entries(options) as [string, { default?: string | boolean }][];
  return names.map(([name, option]) => `  --${name.padEnd(28)}${option.default ?? ""}`).join("\n");
}

/** A list, or a template in which the number of the rank is filled in. */
function readStageAddresses(reader: OptionReader, stages: number): readonly LinkAddress[] {
  const wanted = stages - 1;
  const list = reader.text("stage-addresses");
  const template = reader.text("stage-address-template");
  if (list !== undefined && template !== undefined) {
    reader.wrong("stage-address-template", "stands beside --stage-addresses; give one of them");
    return [];
  }
  if (wanted <= 0) {
    const name = list === undefined ? "stage-address-template" : "stage-addresses";
    const isGiven = list !== undefined || template !== undefined;
    if (isGiven) reader.wrong(name, `is given, and --stages is ${stages}; use --stages 2 or more`);
    return [];
  }
  if (template !== undefined) {
    if (!template.includes(RANK_MARK)) {
      const rule = `put ${RANK_MARK} where the rank stands, as in tcp://g0-${RANK_MARK}.pool:7400`;
      reader.wrong("stage-address-template", `is "${template}"; ${rule}`);
      return [];
    }
    const texts = Array.from({ length: wanted }, (_, index) =>
      template.replaceAll(RANK_MARK, String(index + 1)),
    );
    return texts.flatMap((text) => reader.address("stage-address-template", text) ?? []);
  }
  const texts = list === undefined || list === "" ? [] : list.split(",");
  if (texts.length !== wanted) {
    const found = list === undefined ? "is missing" : `has ${texts.length} addresses`;
    const rule = `${stages} stages need ${wanted}, of ranks 1 to ${wanted}`;
    reader.wrong("stage-addresses", `${found}; ${rule}`);
    return [];
  }
  return texts.flatMap((text) => reader.address("stage-addresses", text) ?? []);
}
