/**
 * `npm run bench:quantised`: what weights in int8 cost in quality and save in memory and time, beside
 * float32 in the same run, the sides taking turns.
 *
 *   npm run bench:quantised -- [PART ...]        all parts, or those that are named
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { quantisedMaking, quantisedMemory } from "./quantised-files.ts";
import { quantisedPictures } from "./quantised-pictures.ts";
import { quantisedErrors, quantisedSpeed } from "./quantised-tensors.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { runParts } from "./run-parts.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const CACHE = join(ROOT, ".cache/bench");
const MIDDLE = { heads: 6, headWidth: 128, doubleBlocks: 3, singleBlocks: 6 };
/** About a gigabyte in float32. */
const LARGE = { heads: 12, headWidth: 128, doubleBlocks: 1, singleBlocks: 5 };

const folder = mkdtempSync(join(tmpdir(), "fluxline-bench-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

const middle = { name: "dim 768", folder: () => randomCheckpoint(CACHE, MIDDLE) };
const large = { name: "dim 1536", folder: () => randomCheckpoint(CACHE, LARGE, "BF16") };

await runParts(
  {
    pictures: { budgetSeconds: 120, measure: () => quantisedPictures(ROOT, folder) },
    errors: { budgetSeconds: 120, measure: () => quantisedErrors([middle, large], folder) },
    speed: { budgetSeconds: 180, measure: () => quantisedSpeed([middle, large], folder) },
    memory: { budgetSeconds: 120, measure: () => quantisedMemory(large.folder(), folder) },
    making: { budgetSeconds: 120, measure: () => quantisedMaking(large.folder(), folder) },
  },
  join(ROOT, "out/bench-quantised.json"),
);
