/** What `fluxline plan` shows of the GPU node's answer. */
import { byteText } from "./byte-text.ts";
import { textTable } from "./text-table.ts";

interface Component {
  readonly name: string;
  readonly mode: "resident" | "sequential";
  readonly weightBytes: number;
  readonly workingBytes: number;
}

export interface PlanChange {
  readonly rows?: number;
  readonly width?: number;
  readonly height?: number;
  readonly precision?: string;
  readonly moreDevices?: { readonly kind: string; readonly count: number };
  readonly moreMemoryBytes?: number;
}

/** As the GPU node's program prints it. */
export interface PlanReport {
  readonly name: string;
  readonly fits: boolean;
  readonly dtype: string;
  readonly computeType: string;
  readonly provider: string;
  readonly width: number;
  readonly height: number;
  readonly rows: number;
  readonly textTokens: number;
  readonly steps: number;
  readonly linkGbit: number;
  readonly stages: readonly {
    readonly rank: number;
    readonly device: string;
    readonly memoryBytes: number;
    readonly blocks: { readonly first: number; readonly end: number };
    readonly weightBytes: number;
    readonly workingBytes: number;
    readonly components: readonly Component[];
    readonly runtimeBytes: number;
    readonly needBytes: number;
    readonly freeBytes: number;
    readonly shortfallBytes: number;
    readonly share: number;
    readonly busy: number;
  }[];
  readonly host: { readonly components: readonly string[]; readonly bytes: number };
  readonly decodeTile: number;
  readonly bottleneck: string;
  readonly pace?: {
    readonly stepSeconds: number;
    readonly stepsPerSecond: number;
    readonly imagesPerMinute: number;
  };
  readonly shortfallBytes: number;
  readonly changes: readonly PlanChange[];
  readonly devices: string;
}

const GIB = 2 ** 30;
/** That of the GPU node. */
const linkGbitDefault = 10;
const shortRanksShown = 4;

/** `model`: as it was typed, for the commands that follow from the plan. */
export function describePlan(plan: PlanReport, model: string): string {
  const { name, dtype, computeType, provider, width, height, rows, textTokens } = plan;
  const computed = dtype === computeType ? "" : ` (computed in ${computeType})`;
  return [
    `model     ${name} as ${dtype}${computed} on provider ${provider}`,
    `largest   ${width}x${height}, ${textTokens} text tokens, ${rows} ${rows === 1 ? "row" : "rows"} in a step`,
    "",
    stageTable(plan),
    "(GiB; step: working memory of all rows; components: their weights and working memory)",
    ...(isSequential(plan) ? ["(*: loaded for each use and let go after it)"] : []),
    "",
    ...beside(plan),
    ...(plan.fits ? verdict(plan, model) : shortfall(plan, model)),
  ].join("\n");
}

function stageTable({ stages }: PlanReport): string {
  const head = ["rank", "device", "blocks", "weights", "step", "components", "runtime", "sum"];
  const rows = stages.map((stage) => {
    const beside = stage.components.reduce(
      (sum, { weightBytes, workingBytes }) => sum + weightBytes + workingBytes,
      0,
    );
    const names = stage.components.map(({ name, mode }) => `${name}${modeMark(mode)}`).join(" ");
    const { first, end } = stage.blocks;
    return [
      String(stage.rank),
      stage.device,
      `${first}-${end - 1}`,
      gib(stage.weightBytes),
      gib(stage.workingBytes),
      names === "" ? "-" : `${gib(beside)} ${names}`,
      gib(stage.runtimeBytes),
      gib(stage.needBytes),
      gib(stage.freeBytes),
      `${(100 * stage.share).toFixed(1)}%`,
    ];
  });
  return textTable([...head, "free", "share of the step"], rows);
}

function isSequential({ stages }: PlanReport): boolean {
  const placed = stages.flatMap(({ components }) => components);
  return placed.some(({ mode }) => mode === "sequential");
}

function modeMark(mode: Component["mode"]): string {
  return mode === "sequential" ? "*" : "";
}

function beside({ host }: PlanReport): string[] {
  if (host.components.length === 0) return [];
  const where = `on the processor beside rank 0: ${byteText(host.bytes)} of the host's memory`;
  return [`cpu       ${host.components.join(", ")} ${where}`];
}

function verdict(plan: PlanReport, model: string): string[] {
  const { decodeTile, bottleneck, stages, pace, linkGbit, devices, steps } = plan;
  const lines = [
    `decoding  ${decodeTile === 0 ? "whole pictures" : `in tiles of ${decodeTile}x${decodeTile}`}`,
    `slowest   ${bottleneck}${stages.length > 1 ? `; links of ${linkGbit} Gbit/s` : ""}`,
  ];
  if (pace === undefined) {
    lines.push("pace      not known: no speed was published for these devices with this type");
  } else {
    const { stepsPerSecond, imagesPerMinute } = pace;
    const [rate, images] = [stepsPerSecond.toFixed(2), imagesPerMinute.toFixed(1)];
    lines.push(
      `pace      ${rate} steps/s, ${images} images/min at ${steps} steps, when there is always work`,
      "          from published seconds of FLUX.1-dev at 1024x1024 with 28 steps, scaled to this",
      "          model and size by operations; nothing was measured here",
    );
  }
  const size = `${plan.width}x${plan.height}`;
  const options = `--devices ${devices} --run-type ${plan.dtype} --provider ${plan.provider}`;
  const command = `fluxline up --model ${model} ${options} --max-size ${size}`;
  const link = linkGbit === linkGbitDefault ? "" : ` --link-gbit ${linkGbit}`;
  return [...lines, "", `run it    ${command} --max-batch ${plan.rows}${link}`];
}

function shortfall({ stages, changes, ...plan }: PlanReport, model: string): string[] {
  const missing = stages.filter(({ shortfallBytes }) => shortfallBytes > 0);
  const lines = [
    "does not fit: of all plans this one lacks the least",
    ...missing.slice(0, shortRanksShown).map(({ rank, device, shortfallBytes }) => {
      return `  rank ${rank} (${device}) lacks ${gib(shortfallBytes)} GiB, with 3% kept free`;
    }),
    ...(missing.length > shortRanksShown
      ? [`  and so do ${missing.length - shortRanksShown} more ranks`]
      : []),
    "",
  ];
  if (changes.length === 0) {
    const wayOut = `try fluxline plan ${model} with more or larger --devices`;
    return [...lines, `no smaller change was found that fits; ${wayOut}`];
  }
  const listed = changes.map((change) => `  ${changeText(change, stages, plan)}`);
  return [...lines, "each of these alone would do (planned, and fits):", ...listed];
}

function changeText(
  change: PlanChange,
  stages: PlanReport["stages"],
  { width, height }: Pick<PlanReport, "width" | "height">,
): string {
  const parts: string[] = [];
  if (change.rows !== undefined) parts.push(`--max-batch ${change.rows}`);
  if (change.width !== undefined) {
    parts.push(`--max-size ${change.width}x${change.height ?? height}`);
  } else if (change.height !== undefined) parts.push(`--max-size ${width}x${change.height}`);
  if (change.precision !== undefined) parts.push(`--dtype ${change.precision}`);
  if (change.moreDevices !== undefined) {
    const { kind, count } = change.moreDevices;
    parts.push(count === 1 ? `one more device of ${kind}` : `${count} more devices of ${kind}`);
  }
  if (change.moreMemoryBytes !== undefined) {
    const more = change.moreMemoryBytes;
    const sizes = new Set(stages.map(({ memoryBytes }) => gib(memoryBytes + more)));
    parts.push(`${gib(more)} GiB more memory on each device: ${[...sizes].join(" or ")} GiB`);
  }
  return parts.join(" with ");
}

function gib(bytes: number): string {
  const value = bytes / GIB;
  return value.toFixed(Math.abs(value) < 0.95 ? 2 : 1);
}
