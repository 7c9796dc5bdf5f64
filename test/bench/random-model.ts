/**
 * A checkpoint of any geometry with random weights, for benchmarks of memory: configs of the checked
 * in FLUX.1-dev geometry with some keys changed, tokenizers of the committed `dev-like` golden
 * checkpoint, and for every tensor that the networks ask for a table of normal numbers, scaled by
 * fan-in. Written once into a folder and reused.
 */
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openGeometry } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import type { Component } from "@fluxline/gpu-node/core/checkpoint.ts";
import { clipTextGraph } from "@fluxline/gpu-node/models/clip-text.ts";
import { fluxTransformerGraph } from "@fluxline/gpu-node/models/flux-transformer.ts";
import { t5EncoderGraph } from "@fluxline/gpu-node/models/t5-encoder.ts";
import { vaeDecoderGraph, vaeEncoderGraph } from "@fluxline/gpu-node/models/vae.ts";
import type { OnnxGraph } from "@fluxline/gpu-node/onnx/graph.ts";
import { Random } from "@fluxline/kernel/random.ts";

export type StoredType = "F32" | "BF16";
type Changes = Readonly<Record<string, unknown>>;

/** Keys of config files to change, by folder of the part. */
export interface ModelGeometry {
  readonly name: string;
  readonly parts: Readonly<Record<string, Changes>>;
}

const GEOMETRY = fileURLToPath(new URL("../../docs/examples/flux1-dev-geometry", import.meta.url));
const GOLDEN = fileURLToPath(new URL("../golden/data/checkpoints/dev-like", import.meta.url));
const TABLE_LENGTH = (1 << 20) + 7;

const NETWORKS: Readonly<Record<string, (part: Component) => OnnxGraph[]>> = {
  transformer: (part) => [fluxTransformerGraph(part, "float32")],
  text_encoder: (part) => [clipTextGraph(part, "float32")],
  text_encoder_2: (part) => [t5EncoderGraph(part, "float32")],
  vae: (part) => [vaeDecoderGraph(part, "float32"), vaeEncoderGraph(part, "float32")],
};

/** The folder of that checkpoint below `parent`, made if it is not there. */
export async function randomModel(
  parent: string,
  { name, parts }: ModelGeometry,
  stored: StoredType,
): Promise<string> {
  const folder = join(parent, `${name}-${stored}`.toLowerCase());
  if (existsSync(folder)) return folder;
  const draft = `${folder}.draft`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(parent, { recursive: true });
  cpSync(GEOMETRY, draft, { recursive: true });
  const index = JSON.parse(readFileSync(join(GOLDEN, "model_index.json"), "utf8"));
  writeFileSync(join(draft, "model_index.json"), JSON.stringify(index));
  for (const tokenizer of ["tokenizer", "tokenizer_2"]) {
    cpSync(join(GOLDEN, tokenizer), join(draft, tokenizer), { recursive: true });
  }
  for (const [part, changes] of Object.entries(parts)) {
    const file = join(draft, part, "config.json");
    const config = { ...JSON.parse(readFileSync(file, "utf8")), ...changes };
    writeFileSync(file, JSON.stringify(config, undefined, 2));
  }
  const geometry = await openGeometry(draft);
  const table = normalTable();
  for (const [part, graphsOf] of Object.entries(NETWORKS)) {
    const shapes = weightShapes(graphsOf(geometry.components.get(part)!));
    const base = part.startsWith("text_encoder") ? "model" : "diffusion_pytorch_model";
    writeWeights(join(draft, part, `${base}.safetensors`), shapes, stored, table);
  }
  renameSync(draft, folder);
  return folder;
}

type Shapes = ReadonlyMap<string, readonly number[]>;

function weightShapes(graphs: readonly OnnxGraph[]): Shapes {
  const external = graphs.flatMap(({ initializers }) =>
    initializers.filter(({ data }) => !(data instanceof Uint8Array)),
  );
  return new Map(external.map(({ name, dims }) => [name, dims]));
}

function writeWeights(file: string, shapes: Shapes, stored: StoredType, table: Float32Array): void {
  const elementBytes = stored === "F32" ? 4 : 2;
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, shape] of shapes) {
    const end = offset + elementBytes * count(shape);
    header[name] = { dtype: stored, shape, data_offsets: [offset, end] };
    offset = end;
  }
  const text = JSON.stringify(header);
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8, " "));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const descriptor = openSync(file, "w");
  writeSync(descriptor, length);
  writeSync(descriptor, padded);
  const scaled = new Map<number, Uint8Array>();
  let start = 0;
  for (const shape of shapes.values()) {
    // A vector is a bias or the scale of a norm: neither may let values grow.
    const scale = shape.length < 2 ? 0 : 1 / Math.sqrt(count(shape.slice(1)));
    const bytes = scaled.get(scale) ?? scaledBytes(table, scale, stored);
    scaled.set(scale, bytes);
    const wanted = count(shape) * elementBytes;
    writeRound(descriptor, bytes, start * elementBytes, wanted);
    // Equal weights would be loaded once only.
    start = (start + count(shape)) % TABLE_LENGTH;
  }
  closeSync(descriptor);
}

function scaledBytes(table: Float32Array, scale: number, stored: StoredType): Uint8Array {
  const values = table.map((value) => (scale === 0 ? 0.5 + value / 1000 : value * scale));
  const bits = stored === "F32" ? values : toBfloat16(values);
  return new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
}

/** So many bytes, from `start` on and over and over again. */
function writeRound(descriptor: number, bytes: Uint8Array, start: number, wanted: number): void {
  for (let left = wanted, at = start; left > 0;) {
    const sent = writeSync(descriptor, bytes, at, Math.min(left, bytes.length - at));
    left -= sent;
    at = (at + sent) % bytes.length;
  }
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

function normalTable(): Float32Array {
  const random = new Random(1);
  return Float32Array.from({ length: TABLE_LENGTH }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random.float()));
    return radius * Math.cos(2 * Math.PI * random.float());
  });
}

function toBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (value) => (value + 0x7fff + ((value >>> 16) & 1)) >>> 16);
}
