/** flux-tiny's pictures in int8 beside the same in float32, in numbers and on one sheet to look at. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { ImageBench } from "../support/image-bench.ts";
import { noiseRatio } from "../support/noise-ratio.ts";
import { type Measurement, median } from "./measurement.ts";

const SIDE = 64;
const COLUMNS = 8;
const PAIRS = 24;
const SHAPES = ["circle", "square", "triangle", "star", "heart"];
const COLOURS = ["red", "green", "blue", "yellow", "orange", "purple", "black"];
const GROUNDS = ["white", "gray", "pink", "black", "yellow", "blue"];
const PLACES = [
  "top left",
  "top",
  "right",
  "center",
  "bottom right",
  "left",
  "bottom",
  "top right",
];
const SIZES = ["large", "small"];

/** Every attribute in turn; the shape has the colour of no background. */
function caption(index: number): string {
  const of = (words: readonly string[], step: number) => words[(index * step) % words.length]!;
  const ground = of(GROUNDS, 1);
  const colour = of(
    COLOURS.filter((one) => one !== ground),
    5,
  );
  return `a ${of(SIZES, 1)} ${colour} ${of(SHAPES, 1)} in the ${of(PLACES, 3)} on a ${ground} background`;
}

export async function quantisedPictures(root: string, folder: string): Promise<Measurement[]> {
  const model = join(root, "models/flux-tiny");
  const draw = async (quantisedFolder?: string): Promise<Pixels[]> => {
    const options = quantisedFolder === undefined ? {} : { quantisedFolder };
    const bench = await ImageBench.open(model, { ...options, limits: { residentsMax: PAIRS } });
    const pictures = await Promise.all(
      Array.from({ length: PAIRS }, (_, index) =>
        bench.images({ prompt: caption(index), seed: BigInt(100 + index), steps: 20 }),
      ),
    );
    await bench.close();
    return pictures.map(([picture]) => picture!);
  };
  const exact = await draw();
  const int8 = await draw(folder);
  const ratios = exact.map((picture, index) => noiseRatio(picture.rgb, int8[index]!.rgb));
  const sheet = join(root, "out/int8-beside-float32.png");
  mkdirSync(join(root, "out"), { recursive: true });
  await writeSheet(exact, int8, sheet);
  console.error(`  float32 above int8: ${sheet}`);
  for (const [index, ratio] of ratios.entries()) {
    if (ratio < 25) console.error(`  ${ratio.toFixed(1)} dB: ${caption(index)}`);
  }
  const note = `${PAIRS} captions of flux-tiny, 64x64, 20 steps, over float32's`;
  const name = "picture in int8";
  return [
    { name: `${name}: worst`, value: Math.min(...ratios), unit: "dB PSNR", note },
    { name: `${name}: median`, value: median(ratios), unit: "dB PSNR", note },
    {
      name: `${name}: mean`,
      value: ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length,
      unit: "dB PSNR",
      note,
    },
  ];
}

/** Pairs above one another, twice as large as they are, so that one sees them. */
async function writeSheet(exact: readonly Pixels[], int8: readonly Pixels[], file: string) {
  const { default: sharp } = await import("sharp");
  const [gap, zoom] = [4, 2];
  const cell = SIDE + gap;
  const rows = Math.ceil(exact.length / COLUMNS);
  const [width, height] = [COLUMNS * cell + gap, rows * (2 * SIDE + 2 * gap + gap) + gap];
  const rgb = new Uint8Array(width * height * 3).fill(128);
  for (const [half, pictures] of [exact, int8].entries()) {
    for (const [index, picture] of pictures.entries()) {
      const left = gap + (index % COLUMNS) * cell;
      const top = gap + Math.floor(index / COLUMNS) * (2 * cell + gap) + half * (SIDE + 1);
      for (let y = 0; y < SIDE; y++) {
        const line = picture.rgb.subarray(y * SIDE * 3, (y + 1) * SIDE * 3);
        rgb.set(line, ((top + y) * width + left) * 3);
      }
    }
  }
  const raw = sharp(rgb, { raw: { width, height, channels: 3 } });
  await raw
    .resize(width * zoom, height * zoom, { kernel: "nearest" })
    .png()
    .toFile(file);
}
