/** Latents to numbers of a picture, by the model's decoder: whole, or tile by tile (decode-tiles). */
import type { ImageModel, ImagePlan, LatentCells } from "../core/image-model.ts";
import { TiledPicture } from "../core/decode-tiles.ts";
import type { NamedTensors, Tensor } from "../core/tensor.ts";
import type { GroupDevices } from "./group-devices.ts";
import { callInputs, named } from "./graph-call.ts";

export class PictureDecoder {
  readonly #model: ImageModel;
  readonly #devices: GroupDevices;

  constructor(model: ImageModel, devices: GroupDevices) {
    this.#model = model;
    this.#devices = devices;
  }

  picture(plan: ImagePlan, latents: Float32Array): Promise<Tensor> {
    const cells = plan.cells(latents);
    const scale = plan.request.width / cells.width;
    return this.#inTiles(cells, scale) ?? this.#run(plan.decodeInputs(latents));
  }

  /** Of any cells; `latents` of a picture of the plan tell how many pixels a cell makes. */
  cells(cells: LatentCells, plan: ImagePlan, latents: Float32Array): Promise<Tensor> {
    const scale = plan.request.width / plan.cells(latents).width;
    return this.#inTiles(cells, scale) ?? this.#run(this.#model.decodeCells(cells));
  }

  /** Where it is larger than a tile: other work may come between two tiles. */
  #inTiles(cells: LatentCells, pixelsPerCell: number): Promise<Tensor> | undefined {
    const { decodeTile } = this.#devices;
    const side = Math.max(cells.height, cells.width) * pixelsPerCell;
    if (decodeTile === 0 || side <= decodeTile) return undefined;
    return this.#tileByTile(new TiledPicture(cells, pixelsPerCell, decodeTile));
  }

  async #tileByTile(tiled: TiledPicture): Promise<Tensor> {
    for (const tile of tiled.tiles) {
      tiled.add(tile, await this.#run(this.#model.decodeCells(tiled.cellsOf(tile))));
    }
    return tiled.picture();
  }

  async #run(inputs: NamedTensors): Promise<Tensor> {
    const { decoder: graph, decoded } = this.#model;
    const call = { graph, inputs: callInputs(inputs), outputs: [decoded] };
    return named((await this.#devices.run(call)).tensors, decoded);
  }
}
