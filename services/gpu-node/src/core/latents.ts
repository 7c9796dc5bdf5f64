/**
 * Latents between noise and pixels: how FLUX packs them into tokens and what the decoder is given.
 * Every operation rounds to float32 where diffusers' torch and numpy code does.
 *
 *   noise [C, H, W] --pack--> tokens [H/2 * W/2, 4C] --unpack--> [C, H, W] --/ scaling + shift-->
 *   decoder [3, f*H, f*W] in -1 .. 1 --> 8-bit RGB
 *
 * A token is a 2x2 patch: its values run channel by channel, each row by row. Tokens run row by row.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { Pixels } from "./image-model.ts";
import type { Tensor } from "./tensor.ts";

/** Side of the square of latents that is one token. */
export const PATCH = 2;

const PATCH_VALUES = PATCH * PATCH;
const { fround } = Math;

export interface LatentSize {
  readonly channels: number;
  /** Of the unpacked latents. */
  readonly height: number;
  readonly width: number;
}

export interface PackedSize {
  readonly rows: number;
  readonly columns: number;
  readonly tokens: number;
  /** Values per token. */
  readonly channels: number;
}

/** `scale`: pixels per latent along each side. The size is one that `resolveRequest` accepted. */
export function latentSize(
  width: number,
  height: number,
  scale: number,
  channels: number,
): LatentSize {
  const step = scale * PATCH;
  assert(width % step === 0 && height % step === 0, `${width} x ${height} in steps of ${step}`);
  return { channels, height: height / scale, width: width / scale };
}

export function packedSize({ channels, height, width }: LatentSize): PackedSize {
  const [rows, columns] = [height / PATCH, width / PATCH];
  return { rows, columns, tokens: rows * columns, channels: channels * PATCH_VALUES };
}

export function packLatents(unpacked: Float32Array, size: LatentSize): Float32Array {
  const packed = new Float32Array(unpacked.length);
  eachValue(size, (inPacked, inUnpacked) => (packed[inPacked] = unpacked[inUnpacked]!));
  return packed;
}

export function unpackLatents(packed: Float32Array, size: LatentSize): Float32Array {
  const unpacked = new Float32Array(packed.length);
  eachValue(size, (inPacked, inUnpacked) => (unpacked[inUnpacked] = packed[inPacked]!));
  return unpacked;
}

/** Visits every value with its index in both layouts. */
function eachValue(
  { channels, height, width }: LatentSize,
  visit: (inPacked: number, inUnpacked: number) => void,
): void {
  const columns = width / PATCH;
  const tokenValues = channels * PATCH_VALUES;
  let inUnpacked = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < height; y++) {
      const firstToken = Math.floor(y / PATCH) * columns;
      const inPatch = channel * PATCH_VALUES + (y % PATCH) * PATCH;
      for (let x = 0; x < width; x++) {
        const token = firstToken + Math.floor(x / PATCH);
        visit(token * tokenValues + inPatch + (x % PATCH), inUnpacked++);
      }
    }
  }
}

/** What the autoencoder's decoder takes: latents / scaling + shift. */
export function undoScaling(latents: Float32Array, scaling: number, shift: number): Float32Array {
  const [divisor, addend] = [fround(scaling), fround(shift)];
  return latents.map((value) => fround(value / divisor) + addend);
}

/** The decoder's output [1, 3, height, width] as pixels: (x / 2 + 1/2) * 255, ties to even. */
export function toPixels(decoded: Tensor): Pixels {
  const [batch, colours, height = 0, width = 0] = decoded.dims;
  const { data } = decoded;
  const shape = decoded.dims.join(", ");
  assert(data instanceof Float32Array && batch === 1 && colours === 3, `a picture of [${shape}]`);
  const area = width * height;
  const rgb = new Uint8Array(area * 3);
  for (let colour = 0; colour < 3; colour++) {
    for (let pixel = 0; pixel < area; pixel++) {
      rgb[pixel * 3 + colour] = toByte(data[colour * area + pixel]!);
    }
  }
  return { width, height, rgb };
}

function toByte(value: number): number {
  const unit = Math.min(1, Math.max(0, fround(fround(value * 0.5) + 0.5)));
  const scaled = fround(unit * 255);
  const low = Math.floor(scaled);
  const rest = scaled - low;
  const up = rest > 0.5 || (rest === 0.5 && low % 2 === 1);
  return up ? low + 1 : low;
}
