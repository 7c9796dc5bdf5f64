/**
 * Whether a request fits the memory of every device of a group, and if not, what would: the answer
 * that a client gets before anything is queued. Reckoned with the bounds of memory-bound.ts, which
 * are empty where nobody has said what memory there is: then everything fits.
 */
import type { FieldViolation } from "./error.ts";
import type { ImageRequest, ModelProfile, RequestedImage } from "./image-request.ts";
import { type ImageSize, smallerSizes } from "./image-size.ts";
import { type MemoryBound, type MemoryDemand, memoryNeed } from "./memory-bound.ts";

/** Fewer tokens than these are no way out. */
const TEXT_TOKENS_USEFUL = 64;

/** Rows that one image takes in a step: two where true classifier-free guidance is on. */
export function rowsOfImage({
  trueCfgScale,
  negativePrompt,
}: Pick<ImageRequest, "trueCfgScale" | "negativePrompt">): 1 | 2 {
  return trueCfgScale > 1 && negativePrompt !== undefined ? 2 : 1;
}

export function fitsMemory(bounds: readonly MemoryBound[], demand: MemoryDemand): boolean {
  return bounds.every((bound) => memoryNeed(bound, demand) <= bound.availableBytes);
}

/**
 * Rows of one step that all devices have memory for, at least one: a picture that does not fit by
 * itself is refused elsewhere. Infinity where nothing bounds them.
 */
export function rowsThatFit(
  bounds: readonly MemoryBound[],
  demand: Omit<MemoryDemand, "rows">,
): number {
  return bounds.reduce((fewest, bound) => {
    const none = memoryNeed(bound, { ...demand, rows: 0 });
    const each = memoryNeed(bound, { ...demand, rows: 1 }) - none;
    if (each <= 0) return fewest;
    const guess = Math.floor((bound.availableBytes - none) / each);
    const most = unrounded(guess, (rows) => fitsMemory([bound], { ...demand, rows }));
    return Math.min(fewest, Math.max(1, most));
  }, Infinity);
}

/** The largest number that fits, where the division that led to `guess` may have been rounded. */
function unrounded(guess: number, fits: (count: number) => boolean): number {
  if (fits(guess + 1)) return guess + 1;
  return fits(guess) ? guess : guess - 1;
}

/** Pixels of the largest picture that fits, of any shape; Infinity where nothing bounds them. */
export function pixelsThatFit(
  bounds: readonly MemoryBound[],
  demand: Omit<MemoryDemand, "pixels">,
): number {
  return bounds.reduce((fewest, bound) => {
    const spare = bound.availableBytes - memoryNeed(bound, { ...demand, pixels: 0 });
    if (spare < 0) return 0;
    const stepped = demand.rows * bound.rowBytesPerPixel;
    const decoded = bound.decodeBytesPerPixel;
    const tile = bound.decodePixelsMax === 0 ? Infinity : bound.decodePixelsMax;
    const untiled = Math.floor(spare / (stepped + decoded));
    const guess = untiled <= tile ? untiled : Math.floor((spare - decoded * tile) / stepped);
    if (!Number.isFinite(guess)) return fewest;
    const fits = (pixels: number): boolean => fitsMemory([bound], { ...demand, pixels });
    return Math.min(fewest, Math.max(0, unrounded(guess, fits)));
  }, Infinity);
}

/** The most pixels that a request with the profile's defaults may have: what it says, and fits. */
export function pixelsAllowed(profile: ModelProfile): number {
  const textTokens = profile.defaultMaxSequenceLength;
  return Math.min(profile.maxPixels, pixelsThatFit(profile.memory, { textTokens, rows: 1 }));
}

/** Nothing if the request fits; else one violation for each field that would help, with numbers. */
export function memoryViolations(
  profile: ModelProfile,
  requested: RequestedImage,
  request: ImageRequest,
): readonly FieldViolation[] {
  const { memory } = profile;
  const demand = demandOf(request);
  if (fitsMemory(memory, demand)) return [];
  const { width, height, maxSequenceLength, trueCfgScale } = request;
  const need = needText(memory, request);
  const largest = smallerSizes(profile, request).find((size) =>
    fitsMemory(memory, { ...demand, pixels: size.width * size.height }),
  );
  const violations = [
    { field: sizeField(requested), description: `${need}; ${sizeText(largest)}` },
  ];
  if (demand.rows === 2 && fitsMemory(memory, { ...demand, rows: 1 })) {
    const what = `is ${trueCfgScale}, which takes two rows of ${width} x ${height} in a step`;
    const description = `${what}; leave it out, and the picture fits`;
    violations.push({ field: "true_cfg_scale", description });
  }
  const tokens = textTokensThatFit(memory, demand);
  if (tokens >= TEXT_TOKENS_USEFUL) {
    const description = `is ${maxSequenceLength}; with at most ${tokens} the picture fits`;
    violations.push({ field: "max_sequence_length", description });
  }
  return violations;
}

function demandOf(request: ImageRequest): MemoryDemand {
  const { width, height, maxSequenceLength: textTokens } = request;
  return { pixels: width * height, textTokens, rows: rowsOfImage(request) };
}

/** Need is linear in the tokens. */
function textTokensThatFit(bounds: readonly MemoryBound[], demand: MemoryDemand): number {
  return bounds.reduce((fewest, bound) => {
    const none = memoryNeed(bound, { ...demand, textTokens: 0 });
    const each = memoryNeed(bound, { ...demand, textTokens: 1 }) - none;
    const spare = bound.availableBytes - none;
    if (spare < 0) return 0;
    return each <= 0 ? fewest : Math.min(fewest, Math.floor(spare / each));
  }, demand.textTokens);
}

/** Of the device that lacks the most. */
function needText(bounds: readonly MemoryBound[], request: ImageRequest): string {
  const demand = demandOf(request);
  const lack = (bound: MemoryBound): number => memoryNeed(bound, demand) - bound.availableBytes;
  const [bound] = bounds.toSorted((a, b) => lack(b) - lack(a)) as [MemoryBound];
  const need = (part: Partial<MemoryBound>): number => memoryNeed({ ...bound, ...part }, demand);
  const noStep = { rowBytesPerPixel: 0, rowBytesPerTextToken: 0 };
  const rows = demand.rows === 1 ? "one row" : `${demand.rows} rows`;
  const parts = [
    `weights and runtime ${gib(bound.fixedBytes)}`,
    `a step of ${rows} ${gib(need({}) - need(noStep))}`,
    `decoding ${gib(need({}) - need({ decodeBytesPerPixel: 0 }))}`,
    `text encoding ${gib(need({}) - need({ encodeBytesPerTextToken: 0 }))}`,
  ];
  const what = `${request.width} x ${request.height} with ${demand.textTokens} text tokens`;
  const there = `${gib(memoryNeed(bound, demand))} GiB on ${bound.device}`;
  return `${what} needs ${there}, which has ${gib(bound.availableBytes)} (${parts.join(", ")})`;
}

function sizeField({ aspectRatio, width }: RequestedImage): string {
  if (aspectRatio !== undefined) return "aspect_ratio";
  return width === undefined ? "height" : "width";
}

function sizeText(largest: ImageSize | undefined): string {
  if (largest === undefined) return "no smaller picture of this shape fits either";
  return `the largest of this shape that fits is ${largest.width} x ${largest.height}`;
}

/** One decimal; below one GiB two digits, so that small devices can be told apart. */
function gib(bytes: number): string {
  const value = bytes / 2 ** 30;
  return value >= 1 || value === 0 ? value.toFixed(1) : value.toPrecision(2);
}
