/**
 * `npm run bench:engine`: what the engine costs over what must be paid, and how well it keeps its
 * devices busy. Ratios are taken in one run with the sides taking turns, because machines are noisy.
 *
 *   npm run bench:engine -- [PART ...]        all parts, or those that are named
 *
 * Each part has a time budget: it says when it needed more, and is ended at twice as much.
 */
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { batcherDecision } from "./batcher-decision.ts";
import { checkpointCost } from "./checkpoint-cost.ts";
import { decodeTiles } from "./decode-tiles.ts";
import { firstStep } from "./first-step.ts";
import { eventLoopDelay } from "./event-loop.ts";
import { goodputReal } from "./goodput/real.ts";
import { goodputSimulated } from "./goodput/simulated.ts";
import { loading } from "./loading.ts";
import { stageOccupancy } from "./occupancy.ts";
import { preemption } from "./preemption.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { type Part, runParts } from "./run-parts.ts";
import { servingOverhead } from "./serving-overhead.ts";
import { stepRatio } from "./step-ratio.ts";
import { twoStages } from "./two-stages.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const CACHE = join(ROOT, ".cache/bench");
const MIDDLE = { heads: 6, headWidth: 128, doubleBlocks: 3, singleBlocks: 6 };
/** As wide, with a number of equally heavy blocks that two stages can share evenly. */
const EVEN = { heads: 6, headWidth: 128, doubleBlocks: 3, singleBlocks: 5 };
/** Four equal blocks, for stages whose computing is simulated. */
const SMALL = { heads: 2, headWidth: 32, doubleBlocks: 4, singleBlocks: 0 };
/** About a gigabyte in float32. */
const LARGE = { heads: 12, headWidth: 128, doubleBlocks: 1, singleBlocks: 5 };
/** Blocks as wide as FLUX.1's, 4 GiB of them in float32. */
const HUGE = { heads: 24, headWidth: 128, doubleBlocks: 1, singleBlocks: 5 };

function pythonWithDiffusers(): string | undefined {
  const python = join(ROOT, ".cache/python/bin/python");
  return existsSync(python) ? python : undefined;
}

const TINY = { folder: join(ROOT, "models/flux-tiny"), prompt: "a red circle on blue", steps: 12 };
const DEV_LIKE = join(ROOT, "test/golden/data/checkpoints/dev-like");

const middle = (): string => randomCheckpoint(CACHE, MIDDLE);

const parts: Readonly<Record<string, Part>> = {
  step: {
    budgetSeconds: 180,
    measure: () => stepRatio(middle(), pythonWithDiffusers()),
  },
  serving: { budgetSeconds: 600, measure: () => servingOverhead(middle()) },
  "two-stages": {
    budgetSeconds: 480,
    measure: () => twoStages(randomCheckpoint(CACHE, EVEN)),
  },
  occupancy: {
    budgetSeconds: 240,
    measure: () => stageOccupancy(randomCheckpoint(CACHE, SMALL)),
  },
  checkpoints: { budgetSeconds: 400, measure: () => checkpointCost(middle()) },
  preemption: { budgetSeconds: 120, measure: () => preemption() },
  "first-step": { budgetSeconds: 30, measure: () => firstStep() },
  "event-loop": { budgetSeconds: 60, measure: () => eventLoopDelay(middle()) },
  "loading-float32": {
    budgetSeconds: 60,
    measure: () => loading(randomCheckpoint(CACHE, LARGE, "F32"), "stored float32"),
  },
  "loading-bfloat16": {
    budgetSeconds: 60,
    measure: () => loading(randomCheckpoint(CACHE, LARGE, "BF16"), "stored bfloat16"),
  },
  "loading-4gb": {
    budgetSeconds: 300,
    measure: async () => {
      const folder = randomCheckpoint(CACHE, HUGE, "F32");
      try {
        return await loading(folder, "stored float32");
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  },
  tiles: {
    budgetSeconds: 180,
    measure: () =>
      decodeTiles(ROOT, [
        { ...TINY, side: 128, tile: 64 },
        { ...TINY, side: 256, tile: 128 },
        { ...TINY, side: 256, tile: 192 },
        { folder: DEV_LIKE, prompt: "", steps: 4, side: 256, tile: 128 },
        { folder: DEV_LIKE, prompt: "", steps: 1, side: 1024, tile: 256 },
      ]),
  },
  goodput: { budgetSeconds: 1200, measure: () => goodputSimulated(ROOT) },
  "goodput-real": { budgetSeconds: 600, measure: () => goodputReal() },
  decision: { budgetSeconds: 60, measure: () => Promise.resolve(batcherDecision()) },
};

await runParts(parts, join(ROOT, "out/bench-engine.json"));
