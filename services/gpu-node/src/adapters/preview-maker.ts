/**
 * Previews of running images, beside the steps and never in their way: the map is begun with one
 * small decode, and a preview is drawn after the next step was sent to the device.
 */
import { previewSteps } from "@fluxline/kernel/image-previews.ts";
import type { ImageModel, ImagePlan, LatentCells, Pixels } from "../core/image-model.ts";
import { LatentPreview, probeCells } from "../core/latent-preview.ts";
import type { Tensor } from "../core/tensor.ts";

/** An image as it is after so many of its steps. */
export interface ImagePreview {
  readonly index: number;
  readonly step: number;
  readonly pixels: Pixels;
}

/** Previews that wait for the first map; each holds its latents. */
const WAITING_MAX = 16;

/** What the map is made with: the model's decoder on cells of any size. */
export type CellsDecoder = (cells: LatentCells) => Promise<Tensor>;

export class PreviewMaker {
  readonly #cellChannels: number;
  readonly #map: LatentPreview;
  #begun = false;
  /** Drawn when there is a map; the oldest is left out where there are too many. */
  readonly #waiting: (() => void)[] = [];

  constructor({ cellChannels }: Pick<ImageModel, "cellChannels">) {
    this.#cellChannels = cellChannels;
    this.#map = new LatentPreview(cellChannels);
  }

  /** The boundaries at which previews of each image of a plan are due. */
  static steps(plan: ImagePlan): ReadonlySet<number> {
    return new Set(previewSteps(plan.request.previewCount, plan.steps));
  }

  get begun(): boolean {
    return this.#begun;
  }

  /** Makes the first map unless there is one. */
  async begin(plan: ImagePlan, decode: CellsDecoder): Promise<void> {
    if (this.#begun) return;
    const probe = probeCells(this.#cellChannels);
    this.#map.begin(probe, plan.pixels(await decode(probe)));
    this.#begun = true;
    for (const draw of this.#waiting.splice(0)) draw();
  }

  /** Takes in a picture that was decoded for its own sake. */
  learn(plan: ImagePlan, latents: Float32Array, pixels: Pixels): void {
    if (this.#map.learning) this.#map.learn(plan.cells(latents), pixels);
  }

  /**
   * Draws the estimate once the event loop has nothing more urgent and there is a map, if it is
   * `wanted` still then.
   */
  drawSoon(
    plan: ImagePlan,
    estimate: () => Float32Array,
    wanted: () => boolean,
    show: (pixels: Pixels) => void,
  ): void {
    const draw = (): void => {
      if (wanted()) show(this.#map.draw(plan.cells(estimate())));
    };
    setImmediate(() => {
      if (this.#begun) return draw();
      if (this.#waiting.length === WAITING_MAX) this.#waiting.shift();
      this.#waiting.push(draw);
    });
  }
}
