/**
 * The goldens as data: what `make.py` wrote, read back. Safetensors files are parsed here by a few
 * lines of their own, so that a mistake in the runtime's reader cannot hide in both sides of a
 * comparison.
 */
import { readFileSync } from "node:fs";

const DATA = new URL("data/", import.meta.url);

export interface GoldenTensor {
  readonly dims: readonly number[];
  readonly data: Float32Array | Int32Array;
}

export interface NetworkCase {
  readonly checkpoint: string;
  readonly network: string;
  readonly name: string;
  readonly settings: {
    readonly rows?: number;
    readonly columns?: number;
    readonly textTokens?: number;
    readonly prompts?: readonly string[];
    readonly maxSequenceLength?: number;
    readonly appended?: boolean;
  };
  readonly file: string;
  readonly inputs: Readonly<Record<string, string>>;
  readonly outputs: Readonly<Record<string, NetworkOutput>>;
}

export interface NetworkOutput {
  readonly tensor: string;
  /** Largest difference between diffusers in float32 and in float64. */
  readonly rounding: number;
  readonly largest: number;
}

/** FluxPipeline's arguments under its own names. */
export interface PipelineArguments {
  readonly prompt: string;
  readonly prompt_2?: string;
  readonly negative_prompt?: string;
  readonly negative_prompt_2?: string;
  readonly true_cfg_scale?: number;
  readonly height: number;
  readonly width: number;
  readonly num_inference_steps: number;
  readonly guidance_scale: number;
  readonly seed: string;
  readonly max_sequence_length: number;
  readonly num_images_per_prompt?: number;
}

export interface RequestCase {
  readonly checkpoint: string;
  readonly name: string;
  readonly arguments: PipelineArguments;
  readonly file: string;
  readonly outputs: Readonly<Record<string, string>>;
  readonly pictures: readonly string[];
  readonly rounding: { readonly latents: number; readonly pixels: number };
}

export interface Manifest {
  readonly versions: Readonly<Record<string, string>>;
  readonly checkpoints: readonly { readonly name: string; readonly folder: string }[];
  readonly networks: readonly NetworkCase[];
  readonly requests: readonly RequestCase[];
}

export interface NoiseCase {
  readonly seed: string;
  readonly draws: readonly {
    readonly shape: readonly number[];
    readonly sha256: string;
    readonly firstHex: readonly string[];
  }[];
}

export interface ScheduleCase {
  readonly config: string;
  readonly steps: number;
  readonly width: number;
  readonly height: number;
  readonly tokens: number;
  readonly mu: number;
  readonly sigmas: readonly number[];
  readonly timesteps: readonly number[];
}

export interface Schedules {
  readonly configs: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly cases: readonly ScheduleCase[];
}

/** `ids`, then `padCount` times `pad`. */
export interface PaddedIds {
  readonly ids: readonly number[];
  readonly pad: number;
  readonly padCount: number;
}

export interface TokenCase {
  readonly name: string;
  readonly prompt: string;
  readonly clip: { readonly untruncated: readonly number[]; readonly padded: PaddedIds };
  readonly t5: {
    readonly untruncated: readonly number[];
    readonly padded: Readonly<Record<string, PaddedIds>>;
  };
}

export interface Tokens {
  readonly checkpoint: string;
  readonly maxSequenceLengths: readonly number[];
  readonly cases: readonly TokenCase[];
}

export const manifest = json("manifest.json") as Manifest;
export const noiseCases = json("noise.json") as readonly NoiseCase[];
export const schedules = json("schedules.json") as Schedules;
export const tokens = json("tokens.json") as readonly Tokens[];

export function paddedIds({ ids, pad, padCount }: PaddedIds): number[] {
  return [...ids, ...Array.from({ length: padCount }, () => pad)];
}

/** Absolute path of a file or folder that the manifest names. */
export function dataPath(path: string): string {
  return decodeURIComponent(new URL(path, DATA).pathname);
}

export function checkpointFolder(name: string): string {
  return dataPath(`checkpoints/${name}`);
}

const files = new Map<string, ReadonlyMap<string, GoldenTensor>>();

export function tensor(file: string, name: string): GoldenTensor {
  let tensors = files.get(file);
  if (tensors === undefined) {
    tensors = parseSafetensors(readFileSync(new URL(file, DATA)));
    files.set(file, tensors);
  }
  const found = tensors.get(name);
  if (found === undefined) throw new Error(`${file} has no tensor ${name}`);
  return found;
}

export function floats(file: string, name: string): Float32Array {
  const { data } = tensor(file, name);
  if (data instanceof Float32Array) return data;
  throw new Error(`${file}: ${name} does not hold floats`);
}

function json(name: string): unknown {
  return JSON.parse(readFileSync(new URL(name, DATA), "utf8"));
}

function parseSafetensors(bytes: Buffer): ReadonlyMap<string, GoldenTensor> {
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const start = 8 + headerBytes;
  const header = JSON.parse(bytes.toString("utf8", 8, start)) as Record<string, HeaderEntry>;
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return new Map(
    entries.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => {
        const copy = new Uint8Array(bytes.subarray(start + from, start + to)).buffer;
        const data = dtype === "I32" ? new Int32Array(copy) : new Float32Array(copy);
        return [name, { dims: shape, data }];
      },
    ),
  );
}

interface HeaderEntry {
  readonly dtype: "F32" | "I32";
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}
