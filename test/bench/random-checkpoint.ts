/**
 * A checkpoint of any transformer size for benchmarks: text encoders, VAE and tokenizers of the
 * committed `dev-like` golden checkpoint, and a transformer of random weights around them. Written
 * once into a folder and reused; the weights repeat a table of normal numbers, scaled by fan-in.
 */
import { closeSync, cpSync, existsSync, mkdirSync, openSync, renameSync, writeSync } from "node:fs";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Random } from "@fluxline/kernel/random.ts";

export interface TransformerSize {
  readonly heads: number;
  readonly headWidth: number;
  readonly doubleBlocks: number;
  readonly singleBlocks: number;
}

export type StoredType = "F32" | "BF16";

const BASE = fileURLToPath(new URL("../golden/data/checkpoints/dev-like", import.meta.url));
const TABLE_LENGTH = (1 << 20) + 7;
const AXES: Readonly<Record<number, readonly number[]>> = { 32: [8, 12, 12], 128: [16, 56, 56] };

/** The folder of a checkpoint of that size below `parent`, made if it is not there. */
export function randomCheckpoint(
  parent: string,
  size: TransformerSize,
  stored: StoredType = "F32",
): string {
  const { heads, headWidth, doubleBlocks, singleBlocks } = size;
  const name = `random-${heads}x${headWidth}-${doubleBlocks}+${singleBlocks}-${stored}`;
  const folder = join(parent, name.toLowerCase());
  if (existsSync(folder)) return folder;
  const draft = `${folder}.draft`;
  rmSync(draft, { recursive: true, force: true });
  mkdirSync(parent, { recursive: true });
  cpSync(BASE, draft, { recursive: true });
  const config = JSON.parse(readFileSync(join(draft, "transformer/config.json"), "utf8"));
  const changed = {
    ...config,
    num_attention_heads: heads,
    attention_head_dim: headWidth,
    axes_dims_rope: AXES[headWidth],
    num_layers: doubleBlocks,
    num_single_layers: singleBlocks,
  };
  writeFileSync(join(draft, "transformer/config.json"), JSON.stringify(changed, undefined, 2));
  const shapes = transformerShapes(size, config.joint_attention_dim, config.pooled_projection_dim);
  const file = join(draft, "transformer/diffusion_pytorch_model.safetensors");
  writeWeights(file, shapes, stored);
  renameSync(draft, folder);
  return folder;
}

export type Shapes = Map<string, readonly number[]>;

function transformerShapes(size: TransformerSize, text: number, pooled: number): Shapes {
  const shapes: Shapes = new Map();
  const width = size.heads * size.headWidth;
  const linear = (name: string, outputs: number, inputs: number): void => {
    shapes.set(`${name}.weight`, [outputs, inputs]);
    shapes.set(`${name}.bias`, [outputs]);
  };
  const norm = (name: string): void => void shapes.set(`${name}.weight`, [size.headWidth]);
  const embedders = { timestep_embedder: 256, guidance_embedder: 256, text_embedder: pooled };
  for (const [name, inputs] of Object.entries(embedders)) {
    linear(`time_text_embed.${name}.linear_1`, width, inputs);
    linear(`time_text_embed.${name}.linear_2`, width, width);
  }
  linear("context_embedder", width, text);
  linear("x_embedder", width, 64);
  for (let block = 0; block < size.doubleBlocks; block++) {
    const at = `transformer_blocks.${block}`;
    linear(`${at}.norm1.linear`, 6 * width, width);
    linear(`${at}.norm1_context.linear`, 6 * width, width);
    const image = ["to_q", "to_k", "to_v", "to_out.0"];
    const context = ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"];
    for (const part of [...image, ...context]) linear(`${at}.attn.${part}`, width, width);
    for (const part of ["norm_q", "norm_k", "norm_added_q", "norm_added_k"]) {
      norm(`${at}.attn.${part}`);
    }
    for (const part of ["ff", "ff_context"]) {
      linear(`${at}.${part}.net.0.proj`, 4 * width, width);
      linear(`${at}.${part}.net.2`, width, 4 * width);
    }
  }
  for (let block = 0; block < size.singleBlocks; block++) {
    const at = `single_transformer_blocks.${block}`;
    linear(`${at}.norm.linear`, 3 * width, width);
    linear(`${at}.proj_mlp`, 4 * width, width);
    linear(`${at}.proj_out`, width, 5 * width);
    for (const part of ["to_q", "to_k", "to_v"]) linear(`${at}.attn.${part}`, width, width);
    for (const part of ["norm_q", "norm_k"]) norm(`${at}.attn.${part}`);
  }
  linear("norm_out.linear", 2 * width, width);
  linear("proj_out", 64, width);
  return shapes;
}

/** Random values of those shapes, one tensor after another. */
export function writeWeights(file: string, shapes: Shapes, stored: StoredType): void {
  const elementBytes = stored === "F32" ? 4 : 2;
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const [name, shape] of shapes) {
    const end = offset + elementBytes * shape.reduce((product, dim) => product * dim, 1);
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
  const table = normalTable();
  let start = 0;
  for (const [name, shape] of shapes) {
    const values = weightValues(name, shape, table, start);
    start = (start + values.length) % table.length;
    const bytes = stored === "F32" ? values : toBfloat16(values);
    const view = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let sent = 0; sent < view.length;) sent += writeSync(descriptor, view, sent);
  }
  closeSync(descriptor);
}

function weightValues(
  name: string,
  shape: readonly number[],
  table: Float32Array,
  start: number,
): Float32Array {
  const count = shape.reduce((product, dim) => product * dim, 1);
  const isNorm = /norm_(added_)?[qk]\.weight$/.test(name);
  const scale = isNorm ? 0.1 : shape.length === 2 ? 1 / Math.sqrt(shape[1]!) : 0.02;
  const shift = isNorm ? 1 : 0;
  const values = new Float32Array(count);
  for (let i = 0, j = start; i < count; i++, j++) {
    if (j === table.length) j = 0;
    values[i] = table[j]! * scale + shift;
  }
  return values;
}

function normalTable(): Float32Array {
  const random = new Random(1);
  const table = new Float32Array(TABLE_LENGTH);
  for (let i = 0; i < table.length; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - random.float()));
    table[i] = radius * Math.cos(2 * Math.PI * random.float());
  }
  return table;
}

function toBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (value) => (value + 0x7fff + ((value >>> 16) & 1)) >>> 16);
}
