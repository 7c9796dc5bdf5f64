/**
 * The settings of a picture, carried in the picture: text chunks of a PNG file, as people know them
 * from other programs. `parameters` is the line format that A1111, Forge and ComfyUI's readers
 * understand; `fluxline` is the whole request as JSON under the field names of our API.
 *
 * Source of the chunk layout: PNG specification (third edition), 11.3.3.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { ImageRequest } from "@fluxline/kernel/image-request.ts";

export interface PictureOrigin {
  readonly modelName: string;
  readonly modelDigest: string;
  /** Which image of the request this is, from 0. */
  readonly index: number;
  /** Made by a simulated device: no real picture. */
  readonly simulated: boolean;
}

const MODEL_HASH_LETTERS = 10;

/** Keyword to content. */
export function generationText(
  request: ImageRequest,
  origin: PictureOrigin,
): ReadonlyMap<string, string> {
  return new Map([
    ["parameters", parametersText(request, origin)],
    ["fluxline", requestJson(request, origin)],
  ]);
}

function parametersText(request: ImageRequest, origin: PictureOrigin): string {
  const { prompt, negativePrompt, steps, trueCfgScale, guidance, seed, width, height } = request;
  const settings = [
    `Steps: ${steps}`,
    "Sampler: Euler",
    `CFG scale: ${trueCfgScale}`,
    `Distilled CFG Scale: ${guidance}`,
    `Seed: ${seed}`,
    `Size: ${width}x${height}`,
    `Model hash: ${origin.modelDigest.slice(0, MODEL_HASH_LETTERS)}`,
    `Model: ${origin.modelName}`,
    ...(request.imageCount > 1 ? [`Image: ${origin.index + 1} of ${request.imageCount}`] : []),
    ...(origin.simulated ? ["Simulated: true"] : []),
    "Version: fluxline",
  ];
  const negative = negativePrompt === undefined ? [] : [`Negative prompt: ${negativePrompt}`];
  return [prompt, ...negative, settings.join(", ")].join("\n");
}

/** 64-bit seeds stand as text: JSON numbers end at 2^53 for most readers. */
function requestJson(request: ImageRequest, origin: PictureOrigin): string {
  return JSON.stringify({
    prompt: request.prompt,
    prompt_2: request.prompt2 === request.prompt ? undefined : request.prompt2,
    negative_prompt: request.negativePrompt,
    negative_prompt_2: request.negativePrompt2,
    true_cfg_scale: request.trueCfgScale,
    width: request.width,
    height: request.height,
    num_inference_steps: request.steps,
    guidance_scale: request.guidance,
    seed: String(request.seed),
    max_sequence_length: request.maxSequenceLength,
    image_count: request.imageCount,
    image_index: origin.index,
    model: origin.modelName,
    model_digest: origin.modelDigest,
    simulated: origin.simulated ? true : undefined,
  });
}

const SIGNATURE_BYTES = 8;
const CHUNK_OVERHEAD_BYTES = 12;
const HEADER_DATA_BYTES = 13;
const HEADER_END = SIGNATURE_BYTES + CHUNK_OVERHEAD_BYTES + HEADER_DATA_BYTES;
const HEADER_TYPE = "IHDR";

/** The PNG file with one text chunk for each entry, right behind its header. */
export function withPngText(png: Uint8Array, text: ReadonlyMap<string, string>): Uint8Array {
  const type = Buffer.from(png.subarray(SIGNATURE_BYTES + 4, SIGNATURE_BYTES + 8));
  assert(type.toString("latin1") === HEADER_TYPE, "a PNG file begins with its header");
  const chunks = [...text].map(([keyword, content]) => textChunk(keyword, content));
  return Buffer.concat([png.subarray(0, HEADER_END), ...chunks, png.subarray(HEADER_END)]);
}

const KEYWORD = /^[\x20-\x7e]{1,79}$/;
/** tEXt is Latin-1 by the book; some readers take it for UTF-8: only what is the same in both. */
const PLAIN = /^[\n\x20-\x7e]*$/;

function textChunk(keyword: string, content: string): Buffer {
  assert(KEYWORD.test(keyword), `keyword ${JSON.stringify(keyword)} of a text chunk`);
  if (PLAIN.test(content)) return chunk("tEXt", Buffer.from(`${keyword}\0${content}`, "latin1"));
  // Not compressed, no language, no translated keyword; then UTF-8.
  return chunk("iTXt", Buffer.from(`${keyword}\0\0\0\0\0${content}`, "utf8"));
}

/** Length of the data, type, data, CRC over type and data. */
function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), 4 + body.length);
  return framed;
}

const CRC_POLYNOMIAL = 0xedb88320;
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) {
    value = (value & 1) === 0 ? value >>> 1 : (value >>> 1) ^ CRC_POLYNOMIAL;
  }
  return value;
});

/** The CRC of ISO 3309, as in annex D of the specification. */
function crc32(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) value = (value >>> 8) ^ CRC_TABLE[(value ^ byte) & 0xff]!;
  return ~value >>> 0;
}
