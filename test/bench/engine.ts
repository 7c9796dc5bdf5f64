/**
 * `npm run bench:engine`: what the engine costs over what must be paid. Ratios are taken in one run
 * with the sides taking turns, because machines are noisy. `--only NAME` runs one part.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { firstStep } from "./first-step.ts";
import { eventLoopDelay } from "./event-loop.ts";
import { loading } from "./loading.ts";
import { type Measurement, measurementTable } from "./measurement.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { servingOverhead } from "./serving-overhead.ts";
import { stepRatio } from "./step-ratio.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const CACHE = join(ROOT, ".cache/bench");
const MIDDLE = { heads: 6, headWidth: 128, doubleBlocks: 3, singleBlocks: 6 };
/** About a gigabyte in float32. */
const LARGE = { heads: 12, headWidth: 128, doubleBlocks: 1, singleBlocks: 5 };

function pythonWithDiffusers(): string | undefined {
  const python = join(ROOT, ".cache/python/bin/python");
  return existsSync(python) ? python : undefined;
}

const parts: Readonly<Record<string, () => Promise<Measurement[]>>> = {
  step: () => stepRatio(randomCheckpoint(CACHE, MIDDLE), pythonWithDiffusers()),
  serving: () => servingOverhead(randomCheckpoint(CACHE, MIDDLE)),
  "first-step": () => firstStep(),
  "event-loop": () => eventLoopDelay(randomCheckpoint(CACHE, MIDDLE)),
  "loading-float32": () => loading(randomCheckpoint(CACHE, LARGE, "F32"), "stored float32"),
  "loading-bfloat16": () => loading(randomCheckpoint(CACHE, LARGE, "BF16"), "stored bfloat16"),
};

const { values } = parseArgs({ options: { only: { type: "string" } } });
const measurements: Measurement[] = [];
for (const [name, measure] of Object.entries(parts)) {
  if (values.only !== undefined && values.only !== name) continue;
  console.error(`measuring: ${name}`);
  measurements.push(...(await measure()));
}
const file = join(ROOT, "out/bench-engine.json");
mkdirSync(join(ROOT, "out"), { recursive: true });
writeFileSync(file, `${JSON.stringify(measurements, undefined, 2)}\n`);
console.log(measurementTable(measurements));
console.log(`written to ${file}`);
