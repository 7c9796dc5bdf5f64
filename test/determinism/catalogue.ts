/**
 * The requests that the determinism matrix serves, the same for every model but for their sizes.
 * There are so few that each one's bytes are computed once, undisturbed, and whoever shares a batch
 * with whom, everybody in it is compared.
 */
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import { Random } from "@fluxline/kernel/random.ts";

export interface CatalogueEntry {
  readonly request: RequestedImage;
  /** Entries of one shape can share a batch. */
  readonly shape: number;
  readonly steps: number;
  readonly images: number;
  /** Rows of one of its images: 2 with true classifier-free guidance. */
  readonly passes: number;
}

export const CATALOGUE_LENGTH = 28;
const SHAPES = [
  { columns: 4, rows: 4, maxSequenceLength: 16 },
  { columns: 7, rows: 3, maxSequenceLength: 24 },
  // With heads 128 wide, more tokens than one block of keys of the CPU's attention holds.
  { columns: 18, rows: 16, maxSequenceLength: 32 },
] as const;
const PROMPTS = [
  "a large red circle in the top left on a yellow background",
  "small green square, top, gray background",
  "",
  "a tiny white star in the bottom right corner",
  "zwei blaue Dreiecke, ein Herz",
  "purple",
  "a photo of a red cat",
];
const STEPS_MIN = 2;
const STEPS_RANGE = 9;
/** So long that a request can be moved five times between its ends. */
const LONG_STEPS = 14;

/** `sizeMultiple`: of the model's profile, pixels; a seed of their own keeps entries as they are. */
export function catalogueOf(sizeMultiple: number): readonly CatalogueEntry[] {
  const random = new Random(20_261);
  return Array.from({ length: CATALOGUE_LENGTH }, (_, number) => {
    return entry(random, number, sizeMultiple);
  });
}

/**
 * Every third is of another shape, every ninth of the large one; every fourth is long, every fifth
 * has two passes, every seventh several images.
 */
function entry(random: Random, number: number, sizeMultiple: number): CatalogueEntry {
  const pick = <T>(values: readonly T[]): T => values[random.below(values.length)]!;
  const shape = number % 9 === 8 ? 2 : number % 3 === 2 ? 1 : 0;
  const { columns, rows, maxSequenceLength } = SHAPES[shape];
  const steps = number % 4 === 1 ? LONG_STEPS : STEPS_MIN + random.below(STEPS_RANGE);
  const twice = number % 5 === 3;
  const images = number % 7 === 6 ? 2 + random.below(2) : 1;
  const request: RequestedImage = {
    prompt: pick(PROMPTS),
    ...(number % 6 === 4 && { prompt2: pick(PROMPTS) }),
    ...(twice && { negativePrompt: pick(PROMPTS), trueCfgScale: 1.5 + 3 * random.float() }),
    width: columns * sizeMultiple,
    height: rows * sizeMultiple,
    maxSequenceLength,
    steps,
    guidance: Math.round(70 * random.float()) / 10,
    seed: (BigInt(random.uint32()) << 32n) | BigInt(random.uint32()),
    imageCount: images,
  };
  return { request, shape, steps, images, passes: twice ? 2 : 1 };
}

/** Rows that the whole request takes in a batch. */
export function rowsOf({ passes, images }: CatalogueEntry): number {
  return passes * images;
}
