/**
 * The numerics class: within one, the same request gives the same bytes whatever its batch mates,
 * the number of stages, the pod, or how often it was interrupted. Whatever can change a bit stands
 * in it; a job goes on from a checkpoint only within the class that made it. What was measured of
 * each part is in docs/determinism.md.
 */

/** Grows whenever the graphs that we build compute something in another way. */
export const GRAPH_VERSION = 2;

export interface NumericsFacts {
  readonly modelDigest: string;
  /** float32, float16, bfloat16, or int8, which the provider tells what else it computes in. */
  readonly runType: string;
  readonly provider: string;
  readonly runtimeVersion: string;
  /** How the graphs are built: `fused` or `portable`. */
  readonly recipe: string;
  /** What the kernels of the CPU go by (`cpuDeviceClass`), or the name of the device. */
  readonly deviceClass: string;
  /** First blocks of the pipeline's stages 1, 2, .. */
  readonly cuts: readonly number[];
  /** Pixels along a side of the tiles in which larger pictures are decoded; 0: none are. */
  readonly decodeTile: number;
}

const CUT_ANYWHERE: ReadonlySet<string> = new Set(["float32", "int8"]);

/**
 * Where stages were shown to change no bit. On the CPU float16 is computed in float32 and rounded
 * only where a tensor leaves a graph, that is at the cuts, and int8 computes in float32 around its
 * linear layers; GPUs have not been measured.
 */
function cutsAreProven({ provider, runType }: NumericsFacts): boolean {
  return provider === "simulated" || (provider === "cpu" && CUT_ANYWHERE.has(runType));
}

/** One line of `key=value`, readable in a log and comparable as a string. */
export function numericsClass(facts: NumericsFacts): string {
  const device = facts.deviceClass.replaceAll(/\s+/g, "-");
  return [
    `model=${facts.modelDigest.slice(0, 16)}`,
    `type=${facts.runType}`,
    `provider=${facts.provider}`,
    `onnxruntime=${facts.runtimeVersion}`,
    `device=${device}`,
    `recipe=${facts.recipe}-${GRAPH_VERSION}`,
    ...(facts.decodeTile === 0 ? [] : [`decode-tile=${facts.decodeTile}`]),
    ...(cutsAreProven(facts) ? [] : [`cuts=${facts.cuts.join() || "none"}`]),
  ].join(" ");
}

/** The widest instruction set that onnxruntime's CPU kernels choose by, from /proc/cpuinfo. */
export function cpuInstructions(cpuinfo: string): string {
  const flags = cpuFlags(cpuinfo);
  const known = ["amx_int8", "avx512_bf16", "avx512f", "avx2", "avx", "sse4_1"];
  return known.find((flag) => flags.has(flag)) ?? "generic";
}

/**
 * What changes the bits of onnxruntime's CPU kernels: the instruction set, and the size of a core's
 * second-level cache (as Linux writes it, "1024K"), by which attention cuts its keys into blocks
 * that it sums one after another. Where the size is not known, the class is this very `machine`.
 */
export function cpuDeviceClass(
  cpuinfo: string,
  secondLevelCache: string | undefined,
  machine: string,
  runType = "float32",
): string {
  const cache = /^(\d+K)\s*$/.exec(secondLevelCache ?? "")?.[1] ?? machine;
  const instructions = [cpuInstructions(cpuinfo)];
  if (runType === "int8") instructions.push(dotProducts(cpuinfo));
  return `${instructions.join("+")}+l2:${cache}`;
}

/** Of bytes: by these, too, the kernels of int8 weights are chosen. */
function dotProducts(cpuinfo: string): string {
  const flags = cpuFlags(cpuinfo);
  return ["avx512_vnni", "avx_vnni"].find((flag) => flags.has(flag)) ?? "no_vnni";
}

function cpuFlags(cpuinfo: string): ReadonlySet<string> {
  return new Set((/^flags\s*:\s*(.*)$/m.exec(cpuinfo)?.[1] ?? "").split(" "));
}
