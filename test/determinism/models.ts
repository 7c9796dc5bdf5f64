/**
 * The models of the determinism matrix: flux-tiny, and two geometries that share nothing with it. One
 * of random weights with more double blocks than single ones, its size drawn from the seed, and the
 * odd one of the goldens: heads of 20, 32 channels, no guidance, another schedule.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Random } from "@fluxline/kernel/random.ts";
import { randomCheckpoint } from "../bench/random-checkpoint.ts";
import type { CaseSource } from "./matrix-case.ts";
import { Reference } from "./reference.ts";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export interface MatrixModel {
  readonly folder: string;
  readonly reference: Reference;
  readonly source: CaseSource;
}

export class MatrixModels {
  readonly all: readonly MatrixModel[];
  readonly #scratch: string;

  private constructor(all: readonly MatrixModel[], scratch: string) {
    this.all = all;
    this.#scratch = scratch;
  }

  static async open(seed: number): Promise<MatrixModels> {
    const scratch = mkdtempSync(join(tmpdir(), "fluxline-determinism-"));
    const folders: Readonly<Record<string, string>> = {
      "flux-tiny": at("../../models/flux-tiny"),
      random: randomGeometry(scratch, seed),
      odd: at("../golden/data/checkpoints/odd-like"),
    };
    const models: MatrixModel[] = [];
    for (const [model, folder] of Object.entries(folders)) {
      const reference = await Reference.open(folder);
      const { blocks, catalogue } = reference;
      models.push({ folder, reference, source: { seed, model, blocks, catalogue } });
    }
    return new MatrixModels(models, scratch);
  }

  async close(): Promise<void> {
    for (const { reference } of this.all) await reference.close();
    this.removeFiles();
  }

  /** For a process that ends at once. */
  removeFiles(): void {
    rmSync(this.#scratch, { recursive: true, force: true });
  }
}

/** 4 to 6 double blocks, 1 to 2 single ones; 1 to 5 heads of 32, or 1 to 2 of 128 as in FLUX.1. */
function randomGeometry(parent: string, seed: number): string {
  const random = new Random(seed);
  const wide = random.below(2) === 1;
  return randomCheckpoint(parent, {
    heads: 1 + random.below(wide ? 2 : 5),
    headWidth: wide ? 128 : 32,
    doubleBlocks: 4 + random.below(3),
    singleBlocks: 1 + random.below(2),
  });
}
