/**
 * Previews as files beside the picture that they are of, or in a folder of the user's choice:
 *
 *   out.png  ->  out-preview-01.png, out-preview-02.png, ...; out-0-preview-01.png of several
 *
 * The number says which of the job's previews it is, also when others were lost on the way or come
 * again after a hand-over. A file that is there already is replaced only if it is ours.
 */
import { basename, dirname, extname, join } from "node:path";
import { previewSteps } from "@fluxline/kernel/image-previews.ts";
import type { ImageJob, Preview } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { type OutputPlan, pictureName, writeNamed } from "./output-file.ts";

export interface WrittenPreview {
  readonly file: string;
  /** Which preview of its image it is, from 1, and of how many. */
  readonly number: number;
  readonly total: number;
}

const ownNames = { file: undefined, overwrite: false, format: "png" } as const;

export class PreviewFiles {
  readonly #plan: OutputPlan | undefined;
  readonly #folder: string | undefined;
  /** Names of what was written, by the name that was wanted. */
  readonly #written = new Map<string, string>();

  /**
   * `plan`: of the pictures; those that nobody writes have their names from the seed. `folder`:
   * where to write instead of beside the picture.
   */
  constructor(plan: OutputPlan | undefined, folder: string | undefined) {
    this.#plan = plan;
    this.#folder = folder;
  }

  write({ spec }: ImageJob, preview: Preview): WrittenPreview {
    const { previewCount: total = 0, numInferenceSteps: steps = 0, seed = 0n } = spec ?? {};
    const plan = this.#plan ?? { ...ownNames, count: spec?.imageCount ?? 1 };
    const picture = pictureName(plan, preview.index, seed);
    const stem = basename(picture, extname(picture));
    const number = previewSteps(total, steps).indexOf(preview.step) + 1;
    const name = `${stem}-preview-${String(number).padStart(2, "0")}.png`;
    const wanted = join(this.#folder ?? dirname(picture), name);
    const before = this.#written.get(wanted);
    const overwrite = plan.overwrite || before !== undefined;
    const file = writeNamed(before ?? wanted, { overwrite, copies: true }, preview.content);
    this.#written.set(wanted, file);
    return { file, number, total };
  }
}
