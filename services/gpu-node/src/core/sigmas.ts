/**
 * The denoising schedule of FLUX: diffusers' FlowMatchEulerDiscreteScheduler as FluxPipeline drives
 * it, down to the roundings of numpy and torch, and the Euler step along it.
 *
 *   1, ..., 1/N --shift--> sigmas --stretch--> --karras | exponential--> sigmas, then 0
 *     static shift    s * x / (1 + (s - 1) * x)
 *     dynamic shift   e^mu / (e^mu + (1 / x - 1)), mu a straight line over the image tokens
 *
 * The rule comes from scheduler/scheduler_config.json; keys that would change the picture and that
 * we do not follow are refused by name.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { invalidArgument } from "@fluxline/kernel/error.ts";
import type { JsonConfig } from "./json-config.ts";

const SCHEDULER_CLASS = "FlowMatchEulerDiscreteScheduler";
const KARRAS_RHO = 7;
const MAX_TERMINAL = 0.999;

const fround = Math.fround;

export interface DynamicShift {
  readonly kind: "exponential" | "linear";
  readonly baseShift: number;
  readonly maxShift: number;
  readonly baseTokens: number;
  readonly maxTokens: number;
}

export interface ScheduleRule {
  readonly trainTimesteps: number;
  readonly shift: number;
  /** Absent: the static shift. */
  readonly dynamicShift: DynamicShift | undefined;
  /** The value that the last sigma before the end is stretched to. */
  readonly shiftTerminal: number | undefined;
  readonly spacing: "linear" | "karras" | "exponential";
  /** Ends of the karras and exponential spacings; absent: those of the shifted sigmas. */
  readonly sigmaMin: number | undefined;
  readonly sigmaMax: number | undefined;
  readonly inverted: boolean;
  /** Start from the scheduler's own range instead of 1 .. 1/N (`use_flow_sigmas`). */
  readonly ownRange: boolean;
}

export interface Schedule {
  /** One per step boundary: steps + 1 values. */
  readonly sigmas: Float32Array;
  /** What the network is told, sigma * 1000: one per step. */
  readonly timesteps: Float32Array;
}

/** Reads scheduler_config.json; what is absent has diffusers' default. */
export function readScheduleRule(config: JsonConfig): ScheduleRule {
  config.oneOf("_class_name", [SCHEDULER_CLASS], SCHEDULER_CLASS);
  refuseUnsupported(config);
  const dynamic = config.boolean("use_dynamic_shifting", false);
  return {
    trainTimesteps: config.integer("num_train_timesteps", { min: 1, fallback: 1000 }),
    shift: config.number("shift", { above: 0, fallback: 1 }),
    dynamicShift: dynamic ? readDynamicShift(config) : undefined,
    shiftTerminal: readShiftTerminal(config),
    spacing: readSpacing(config),
    sigmaMin: optionalSigma(config, "sigma_min"),
    sigmaMax: optionalSigma(config, "sigma_max"),
    inverted: config.boolean("invert_sigmas", false),
    ownRange: config.boolean("use_flow_sigmas", false),
  };
}

function refuseUnsupported(config: JsonConfig): void {
  const reasons = {
    use_beta_sigmas: "sigmas spaced by a beta distribution are not supported; set it to false",
    stochastic_sampling: "noise added at every step is not supported; set it to false",
  };
  for (const [key, why] of Object.entries(reasons)) {
    if (config.boolean(key, false)) throw config.error(key, `is true; ${why}`);
  }
}

function readDynamicShift(config: JsonConfig): DynamicShift {
  const baseTokens = config.integer("base_image_seq_len", { min: 0, fallback: 256 });
  return {
    kind: config.oneOf("time_shift_type", ["exponential", "linear"], "exponential"),
    baseShift: config.number("base_shift", { fallback: 0.5 }),
    maxShift: config.number("max_shift", { fallback: 1.15 }),
    baseTokens,
    maxTokens: config.integer("max_image_seq_len", { min: baseTokens + 1, fallback: 4096 }),
  };
}

/** Absent, null and 0 mean "not stretched", as in diffusers. */
function readShiftTerminal(config: JsonConfig): number | undefined {
  const terminal = config.number("shift_terminal", { min: 0, max: MAX_TERMINAL, fallback: 0 });
  return terminal === 0 ? undefined : terminal;
}

function readSpacing(config: JsonConfig): ScheduleRule["spacing"] {
  const karras = config.boolean("use_karras_sigmas", false);
  const exponential = config.boolean("use_exponential_sigmas", false);
  if (karras && exponential) {
    const rule = "is true as well as use_karras_sigmas; set one of the two to false";
    throw config.error("use_exponential_sigmas", rule);
  }
  if (karras) return "karras";
  return exponential ? "exponential" : "linear";
}

function optionalSigma(config: JsonConfig, key: string): number | undefined {
  return config.has(key) ? config.number(key, { above: 0 }) : undefined;
}

/** `steps` denoising steps for a picture of `imageTokens` packed tokens. */
export function makeSchedule(rule: ScheduleRule, steps: number, imageTokens: number): Schedule {
  assert(Number.isInteger(steps) && steps >= 1, `${steps} steps`);
  const start = rule.ownRange ? ownSigmas(rule, steps) : pipelineSigmas(steps);
  // numpy keeps float32 arrays in float32 beside Python's numbers, and float64 arrays in float64.
  const round = rule.ownRange ? (value: number): number => value : fround;
  let sigmas = shifted(rule, start, imageTokens, round);
  if (rule.shiftTerminal !== undefined) sigmas = stretched(sigmas, rule.shiftTerminal, round);
  if (rule.spacing !== "linear") sigmas = respaced(rule, sigmas);
  return withEnd(rule, Float32Array.from(sigmas));
}

/** FluxPipeline's 1 .. 1/N, as numpy's linspace makes it, in float32. */
function pipelineSigmas(steps: number): number[] {
  return linspace(1, 1 / steps, steps).map(fround);
}

/** The scheduler's own range, which its static shift has already moved once. */
function ownSigmas(rule: ScheduleRule, steps: number): number[] {
  const { trainTimesteps, shift } = rule;
  const moved = (sigma: number): number =>
    rule.dynamicShift === undefined ? staticShift(shift, sigma, fround) : sigma;
  const low = moved(fround(1 / trainTimesteps));
  const timesteps = linspace(moved(1) * trainTimesteps, low * trainTimesteps, steps);
  return timesteps.map((timestep) => timestep / trainTimesteps);
}

type Rounding = (value: number) => number;

function shifted(
  rule: ScheduleRule,
  sigmas: readonly number[],
  imageTokens: number,
  round: Rounding,
): number[] {
  const dynamic = rule.dynamicShift;
  if (dynamic === undefined) return sigmas.map((sigma) => staticShift(rule.shift, sigma, round));
  const mu = shiftExponent(dynamic, imageTokens);
  const weight = round(dynamic.kind === "exponential" ? Math.exp(mu) : mu);
  return sigmas.map((sigma) => {
    const odds = round(round(1 / sigma) - 1);
    return round(weight / round(weight + odds));
  });
}

/** mu: on the line through (base tokens, base shift) and (max tokens, max shift), not clamped. */
export function shiftExponent(dynamic: DynamicShift, imageTokens: number): number {
  const { baseShift, maxShift, baseTokens, maxTokens } = dynamic;
  const slope = (maxShift - baseShift) / (maxTokens - baseTokens);
  return imageTokens * slope + (baseShift - slope * baseTokens);
}

function staticShift(shift: number, sigma: number, round: Rounding): number {
  const scaled = round(round(shift) * sigma);
  return round(scaled / round(1 + round(round(shift - 1) * sigma)));
}

function stretched(sigmas: readonly number[], terminal: number, round: Rounding): number[] {
  const rest = sigmas.map((sigma) => round(1 - sigma));
  const last = rest.at(-1)!;
  if (last === 0) {
    const rule = "must be 2 or more for this model, whose schedule has a shift_terminal";
    throw invalidArgument([
      { field: "num_inference_steps", description: `is ${sigmas.length}; ${rule}` },
    ]);
  }
  const factor = round(last / round(1 - terminal));
  return rest.map((value) => round(1 - round(value / factor)));
}

/** Both spacings run in double precision between the ends of the shifted sigmas. */
function respaced(rule: ScheduleRule, sigmas: readonly number[]): number[] {
  const high = rule.sigmaMax ?? sigmas[0]!;
  const low = rule.sigmaMin ?? sigmas.at(-1)!;
  if (rule.spacing === "exponential") {
    return linspace(Math.log(high), Math.log(low), sigmas.length).map(Math.exp);
  }
  const [top, bottom] = [high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)];
  const ramp = linspace(0, 1, sigmas.length);
  return ramp.map((part) => (top + part * (bottom - top)) ** KARRAS_RHO);
}

function withEnd(rule: ScheduleRule, sigmas: Float32Array): Schedule {
  const start = rule.inverted ? sigmas.map((sigma) => 1 - sigma) : sigmas;
  const all = new Float32Array(start.length + 1);
  all.set(start);
  all[start.length] = rule.inverted ? 1 : 0;
  return { sigmas: all, timesteps: start.map((sigma) => sigma * rule.trainTimesteps) };
}

/** numpy.linspace: `start + i * step`, the last value exactly `stop`. */
function linspace(start: number, stop: number, count: number): number[] {
  const step = (stop - start) / (count - 1);
  return Array.from({ length: count }, (_, i) => {
    if (i === 0) return start;
    return i === count - 1 ? stop : i * step + start;
  });
}

/** latents + (nextSigma - sigma) * velocity, each operation rounded to float32 as torch does. */
export function eulerStep(
  latents: Float32Array,
  velocity: Float32Array,
  sigma: number,
  nextSigma: number,
): Float32Array {
  assert(latents.length === velocity.length, `${velocity.length} values for ${latents.length}`);
  const change = fround(nextSigma - sigma);
  return latents.map((value, i) => value + fround(change * velocity[i]!));
}

/** True classifier-free guidance: negative + scale * (positive - negative), in float32. */
export function combineGuidance(
  positive: Float32Array,
  negative: Float32Array,
  scale: number,
): Float32Array {
  assert(positive.length === negative.length, `${negative.length} values for ${positive.length}`);
  const weight = fround(scale);
  return positive.map((value, i) => {
    const base = negative[i]!;
    return base + fround(weight * fround(value - base));
  });
}
