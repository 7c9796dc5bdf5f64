/**
 * What every rank of a group is told at its start, on the command line of `serve` (rank 0) and of
 * `stage` (the others): ranks of one group get the same values, but for where they stand in it.
 */
import { parseArgs, type ParseArgsOptionsConfig } from "node:util";
import { AppError, type FieldViolation, invalidArgument } from "@fluxline/kernel/error.ts";
import { isToken } from "@fluxline/platform/bus/topology.ts";
import { type DeviceOffer, parseDevices, readSize } from "../core/device-offer.ts";
import { type Precision, PRECISIONS } from "../core/precision.ts";
import type { Place } from "../core/stage-plan.ts";
import { LINK_GBIT_DEFAULT, LINK_GBIT_MAX } from "../models/pool-plan.ts";
import { isProcessor } from "../models/precision.ts";
import { type Provider, PROVIDERS } from "./runner/arguments.ts";
import { type LinkAddress, parseLinkAddress } from "./stage-link/link-address.ts";
import type { LinkSecurity } from "./stage-link/link-security.ts";

export interface RankOptions {
  readonly pool: string;
  readonly group: string;
  readonly model: string;
  readonly provider: Provider;
  readonly threads: number;
  /** The type to compute in, or int8. */
  readonly runType: Precision;
  /** Name of the GPU's kind, for the numerics class; undefined: this very machine is the kind. */
  readonly deviceClass: string | undefined;
  readonly stages: number;
  readonly cuts: readonly number[] | undefined;
  readonly places: ReadonlyMap<string, Place>;
  /** Components that are loaded for each use and let go after it. */
  readonly sequential: ReadonlySet<string>;
  /** Pixels along a side of a decoder's tile; 0: whole pictures; undefined: the planner's choice. */
  readonly decodeTile: number | undefined;
  /** What the group is planned for; undefined without `--devices`. */
  readonly offer: GroupOffer | undefined;
  /** Rows of one step at most. */
  readonly rowsMax: number;
  /** Of the links between ranks; without it they are plain. */
  readonly security: LinkSecurity | undefined;
  /** Seconds of one step over all stages, for provider `simulated` only. */
  readonly simulatedStepSeconds: number;
  readonly exitWithParent: boolean;
}

/** Devices in the order of ranks, and the largest request that they are to hold. */
export interface GroupOffer {
  readonly devices: readonly DeviceOffer[];
  readonly width: number;
  readonly height: number;
  readonly linkGbit: number;
}

export interface StageOptions extends RankOptions {
  readonly rank: number;
  readonly listen: LinkAddress;
}

const THREADS_MAX = 1024;
const STAGES_MAX = 64;
const ROWS_MAX = 64;
const MAX_SIZE_DEFAULT = "1024x1024";
/** Smaller ones would be mostly overlap. */
const DECODE_TILE_MIN = 128;
const DECODE_TILE_MULTIPLE = 16;
const DECODE_TILE_MAX = 8192;
const SIMULATED_STEP_SECONDS_MAX = 3600;

export const RANK_OPTIONS = {
  pool: { type: "string", default: "default" },
  group: { type: "string", default: "g0" },
  model: { type: "string" },
  provider: { type: "string", default: "cpu" },
  threads: { type: "string" },
  "run-type": { type: "string", default: "float32" },
  "device-class": { type: "string" },
  stages: { type: "string" },
  cuts: { type: "string" },
  place: { type: "string" },
  sequential: { type: "string" },
  "decode-tile": { type: "string" },
  devices: { type: "string" },
  "max-size": { type: "string" },
  "max-batch": { type: "string", default: "4" },
  "link-gbit": { type: "string" },
  "link-certificate": { type: "string" },
  "link-key": { type: "string" },
  "link-authority": { type: "string" },
  "link-peer-names": { type: "string" },
  "simulated-step-seconds": { type: "string", default: "0.05" },
  "exit-with-parent": { type: "boolean", default: false },
} as const;

export const STAGE_OPTIONS = {
  ...RANK_OPTIONS,
  rank: { type: "string" },
  listen: { type: "string" },
} as const;

type Values = Readonly<Record<string, string | boolean | undefined>>;

/** Reads options one by one and remembers what is wrong with them, to name it all at once. */
export class OptionReader {
  readonly #values: Values;
  readonly #violations: FieldViolation[] = [];

  /** Throws INVALID_OPTIONS for an option that is not known. */
  constructor(argv: readonly string[], options: ParseArgsOptionsConfig) {
    try {
      this.#values = parseArgs({ args: [...argv], options }).values as Values;
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      throw new AppError("invalid_argument", message, { reason: "INVALID_OPTIONS", cause });
    }
  }

  wrong(name: string, description: string): void {
    this.#violations.push({ field: `--${name}`, description });
  }

  /** Throws one INVALID_ARGUMENT that names every wrong option. */
  finish(): void {
    if (this.#violations.length > 0) throw invalidArgument(this.#violations, "INVALID_OPTIONS");
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }

  required(name: string, wayOut: string): string {
    const value = this.text(name);
    if (value === undefined) this.wrong(name, `is missing; ${wayOut}`);
    return value ?? "";
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  whole(name: string, range: { min?: number; max: number; fallback?: number }): number {
    const { min = 1, max, fallback } = range;
    const text = this.text(name) ?? (fallback === undefined ? undefined : String(fallback));
    const value = Number(text);
    if (text !== undefined && text !== "" && Number.isInteger(value)) {
      if (value >= min && value <= max) return value;
    }
    this.wrong(name, `${text === undefined ? "is missing" : `is ${text}`}; use ${min} to ${max}`);
    return min;
  }

  token(name: string): string {
    const value = this.text(name) ?? "";
    if (!isToken(value)) {
      const rule = "use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends";
      this.wrong(name, `is "${value}"; ${rule}`);
    }
    return value;
  }

  oneOf<T extends string>(name: string, known: readonly T[], fallback: T): T {
    const value = this.text(name) ?? "";
    const found = known.find((one) => one === value);
    if (found === undefined) this.wrong(name, `is ${value}; use ${known.join(", ")}`);
    return found ?? fallback;
  }

  seconds(name: string, max: number): number {
    const text = this.text(name) ?? "";
    const value = text === "" ? Number.NaN : Number(text);
    if (value >= 0 && value <= max) return value;
    this.wrong(name, `is ${text}; use 0 to ${max}`);
    return 0;
  }

  /** Undefined when it is wrong, which is remembered. */
  address(name: string, text: string): LinkAddress | undefined {
    try {
      return parseLinkAddress(text, `--${name}`);
    } catch (thrown) {
      if (!(thrown instanceof AppError)) throw thrown;
      this.#violations.push(...thrown.violations);
      return undefined;
    }
  }
}

export function readRankOptions(reader: OptionReader, cores: number): RankOptions {
  const provider = reader.oneOf("provider", PROVIDERS, "cpu");
  const offer = readOffer(reader, provider);
  return {
    pool: reader.token("pool"),
    group: reader.token("group"),
    model: reader.required("model", "give a model folder, or org/name of a hub"),
    provider,
    deviceClass: readDeviceClass(reader, provider),
    threads: reader.whole("threads", { max: THREADS_MAX, fallback: cores }),
    runType: readRunType(reader, provider),
    stages: readStages(reader, offer),
    cuts: readCuts(reader),
    places: readPlaces(reader),
    sequential: new Set(reader.text("sequential")?.split(",")),
    decodeTile: readDecodeTile(reader),
    offer,
    rowsMax: reader.whole("max-batch", { max: ROWS_MAX }),
    security: readSecurity(reader),
    simulatedStepSeconds: reader.seconds("simulated-step-seconds", SIMULATED_STEP_SECONDS_MAX),
    exitWithParent: reader.flag("exit-with-parent"),
  };
}

/** Throws one INVALID_ARGUMENT that names every wrong option. */
export function parseStageOptions(argv: readonly string[], cores: number): StageOptions {
  const reader = new OptionReader(argv, STAGE_OPTIONS);
  const shared = readRankOptions(reader, cores);
  const { stages } = shared;
  if (stages < 2) reader.wrong("stages", `is ${stages}; a group with stages beside rank 0 has 2`);
  const rank = reader.whole("rank", { max: Math.max(1, stages - 1) });
  const where = reader.required("listen", "give unix:/path or tcp://host:port");
  const listen = where === "" ? undefined : reader.address("listen", where);
  reader.finish();
  return { ...shared, rank, listen: listen! };
}

/** TensorRT has no operator for weights of 8 bits and would leave every one of them to the CPU. */
function readRunType(reader: OptionReader, provider: Provider): Precision {
  const precision = reader.oneOf("run-type", PRECISIONS, "float32");
  if (precision === "int8" && provider === "tensorrt") {
    reader.wrong("run-type", "is int8, which provider tensorrt lacks; use provider cuda");
  }
  if (precision === "bfloat16" && provider === "cpu") {
    const rule = "in which provider cpu does not compute; use float32, int8 or float16";
    reader.wrong("run-type", `is bfloat16, ${rule}`);
  }
  return precision;
}

/** Without a name a GPU is taken for like itself only, and a group may not span two machines. */
function readDeviceClass(reader: OptionReader, provider: Provider): string | undefined {
  if (reader.text("device-class") === undefined) return undefined;
  if (!isProcessor(provider)) return reader.token("device-class");
  reader.wrong("device-class", `is for GPUs; what provider ${provider} computes on is found out`);
  return undefined;
}

/** Whether the blocks are there is the planner's to say: it knows the model. */
export function readCuts(reader: OptionReader): readonly number[] | undefined {
  const text = reader.text("cuts");
  if (text === undefined) return undefined;
  const cuts = text.split(",").map((part) => (/^\d{1,6}$/.test(part) ? Number(part) : undefined));
  const whole = cuts.flatMap((cut) => cut ?? []);
  if (whole.length === cuts.length) return whole;
  reader.wrong("cuts", `is "${text}"; use first blocks of stages 1 and on, like 3,5`);
  return undefined;
}

export function readPlaces(reader: OptionReader): ReadonlyMap<string, Place> {
  const places = new Map<string, Place>();
  const text = reader.text("place");
  for (const part of text?.split(",") ?? []) {
    const [, name, place] = /^([a-z0-9_-]+)=(\d{1,6}|cpu)$/.exec(part) ?? [];
    if (name === undefined || places.has(name)) {
      const why = name === undefined ? `has "${part}"` : `names ${name} twice`;
      reader.wrong("place", `${why}; use a rank or cpu for each, like clip=0,t5=1,vae=cpu`);
    } else {
      places.set(name, place === "cpu" ? place : Number(place));
    }
  }
  return places;
}

function readOffer(reader: OptionReader, provider: Provider): GroupOffer | undefined {
  const text = reader.text("devices");
  const violations: FieldViolation[] = [];
  const { width, height } = readSize(reader.text("max-size") ?? MAX_SIZE_DEFAULT, violations);
  const linkGbit = reader.whole("link-gbit", { max: LINK_GBIT_MAX, fallback: LINK_GBIT_DEFAULT });
  for (const name of ["max-size", "link-gbit"]) {
    if (text !== undefined || reader.text(name) === undefined) continue;
    reader.wrong(name, "is of no use without --devices; say what there is, like 2x24GiB");
  }
  const parsed = text === undefined ? undefined : parseDevices(text, provider);
  for (const { field, description } of [...violations, ...(parsed?.violations ?? [])]) {
    reader.wrong(field.replace("--", ""), description);
  }
  if (parsed === undefined || parsed.violations.length > 0) return undefined;
  return { devices: parsed.devices, width, height, linkGbit };
}

/** As many as there are devices, if these are told. */
function readStages(reader: OptionReader, offer: GroupOffer | undefined): number {
  const count = offer?.devices.length;
  const stages = reader.whole("stages", { max: STAGES_MAX, fallback: count ?? 1 });
  if (count !== undefined && stages !== count) {
    const rule = `--devices has ${count}, and each is one stage: leave --stages out`;
    reader.wrong("stages", `is ${stages}; ${rule}`);
  }
  return stages;
}

function readDecodeTile(reader: OptionReader): number | undefined {
  if (reader.text("decode-tile") === undefined) return undefined;
  const tile = reader.whole("decode-tile", { min: 0, max: DECODE_TILE_MAX });
  if (tile === 0 || (tile >= DECODE_TILE_MIN && tile % DECODE_TILE_MULTIPLE === 0)) return tile;
  const rule = `use a multiple of ${DECODE_TILE_MULTIPLE} from ${DECODE_TILE_MIN}, or 0 for none`;
  reader.wrong("decode-tile", `is ${tile}; ${rule}`);
  return 0;
}

function readSecurity(reader: OptionReader): LinkSecurity | undefined {
  const files = ["link-certificate", "link-key", "link-authority"];
  const [certificateFile = "", keyFile = "", authorityFile = ""] = files.map((name) =>
    reader.text(name),
  );
  const names = reader.text("link-peer-names");
  const given = [...files, "link-peer-names"].filter((name) => reader.text(name) !== undefined);
  if (given.length === 0) return undefined;
  for (const name of files) {
    if (!given.includes(name)) reader.wrong(name, `is missing beside --${given.join(", --")}`);
  }
  const security = { certificateFile, keyFile, authorityFile };
  if (names === undefined) return security;
  const peerNames = names.split(",").filter((name) => name !== "");
  if (peerNames.length === 0) {
    reader.wrong("link-peer-names", "is empty; name what a peer's certificate must carry");
  }
  return { ...security, peerNames };
}
