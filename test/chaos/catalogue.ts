/**
 * The requests that a chaos run keeps in flight: sizes, steps, seeds, guidance, numbers of images,
 * true classifier-free guidance, second texts. A list of fixed length, so that the pictures that
 * each should give are made once, undisturbed.
 */
import { Random } from "@fluxline/kernel/random.ts";

export interface Request {
  readonly prompt: string;
  readonly prompt2?: string;
  readonly negativePrompt?: string;
  readonly trueCfgScale?: number;
  readonly width: number;
  readonly height: number;
  readonly numInferenceSteps: number;
  readonly guidanceScale: number;
  readonly seed: bigint;
  readonly imageCount: number;
}

/** The catalogue does not change with a run's seed. */
const CATALOGUE_SEED = 20_260;
const COLOURS = ["red", "green", "blue", "yellow", "orange", "purple"];
const SHAPES = ["circle", "square", "triangle", "star", "heart"];
const SIZES = [
  [64, 64],
  [64, 64],
  [96, 64],
  [64, 96],
  [96, 96],
] as const;
const STEPS_MIN = 20;
const STEPS_RANGE = 90;

export function catalogueOf(length: number): Request[] {
  const random = new Random(CATALOGUE_SEED);
  return Array.from({ length }, (_, number) => request(random, number));
}

function request(random: Random, number: number): Request {
  const pick = <T>(values: readonly T[]): T => values[random.below(values.length)]!;
  const subject = () => `a large ${pick(COLOURS)} ${pick(SHAPES)}`;
  const [width, height] = pick(SIZES);
  // Every third has several images, every fourth a negative text, every fifth a second text.
  return {
    prompt: subject(),
    ...(number % 5 === 4 && { prompt2: `${subject()} on a black background` }),
    ...(number % 4 === 3 && { negativePrompt: subject(), trueCfgScale: 2 }),
    width,
    height,
    numInferenceSteps: STEPS_MIN + random.below(STEPS_RANGE),
    guidanceScale: 1 + random.below(7),
    seed: BigInt(random.uint32()),
    imageCount: number % 3 === 2 ? 2 + random.below(2) : 1,
  };
}

/** Image steps that the request takes when nothing happens. */
export function stepsNeeded({ numInferenceSteps, imageCount }: Request): number {
  return numInferenceSteps * imageCount;
}
