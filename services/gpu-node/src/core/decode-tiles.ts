/**
 * A picture decoded in overlapping tiles, for devices that have no memory for a whole one. All
 * tiles have one size; the last of a row or column is shifted back to the edge. Where tiles overlap
 * they are blended linearly, in float32, before anything is rounded to 8 bits:
 *
 *   weight   1 |-------\   /-------        the tile before fades out while the next fades in;
 *              |        \ /                what is laid down and what comes over it always weigh 1
 *              |        / \                together, so that nothing gets brighter or darker
 *            0 |_______/___\_______        at a seam
 *
 * A decoder looks at its whole input (its middle attends to every cell), so tiles change bits: the
 * setting stands in the numerics class. Cells and their pixels come from the tensors; no family is
 * known here.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { LatentCells } from "./image-model.ts";
import { float32Tensor, type Tensor } from "./tensor.ts";

/** Of a tile's side, shared with the next one. */
export const OVERLAP_SHARE = 1 / 4;
/** Fewer cells would show the zeros that a convolution sees beyond the edge of a tile. */
export const OVERLAP_CELLS_MIN = 4;

/** Where tiles begin along one axis, in cells, and how many cells each has. */
export interface AxisTiles {
  readonly starts: readonly number[];
  readonly cells: number;
}

export interface Tile {
  /** First cell of each axis. */
  readonly row: number;
  readonly column: number;
  readonly height: number;
  readonly width: number;
}

/** Along an axis of so many cells; one tile where it is no longer than a tile. */
export function axisTiles(length: number, tileCells: number): AxisTiles {
  assert(length >= 1 && tileCells >= 1, `${length} cells in tiles of ${tileCells}`);
  if (length <= tileCells) return { starts: [0], cells: length };
  const wanted = Math.max(Math.ceil(tileCells * OVERLAP_SHARE), OVERLAP_CELLS_MIN);
  const stride = tileCells - Math.min(wanted, Math.floor(tileCells / 2));
  const last = length - tileCells;
  const starts: number[] = [];
  for (let start = 0; start < last; start += stride) starts.push(start);
  return { starts: [...starts, last], cells: tileCells };
}

/**
 * Weight of each tile at each of its pixels, along one axis: tiles are laid down in order, and each
 * fades in linearly over all that is there before it, so that the weights at any pixel sum to 1
 * also where three tiles meet.
 */
export function axisWeights({ starts, cells }: AxisTiles, pixelsPerCell: number): Float64Array[] {
  const length = cells * pixelsPerCell;
  const weights = starts.map(() => new Float64Array(length).fill(1));
  for (let tile = 1; tile < starts.length; tile++) {
    const start = starts[tile]! * pixelsPerCell;
    const shared = starts[tile - 1]! * pixelsPerCell + length - start;
    for (let at = 0; at < shared; at++) {
      const fadesIn = (at + 0.5) / shared;
      weights[tile]![at]! *= fadesIn;
      for (let before = 0; before < tile; before++) {
        const there = start + at - starts[before]! * pixelsPerCell;
        if (there < length) weights[before]![there]! *= 1 - fadesIn;
      }
    }
  }
  return weights;
}

/** The tiles of one picture, and the picture that grows from them. */
export class TiledPicture {
  readonly tiles: readonly Tile[];
  readonly #cells: LatentCells;
  readonly #pixelsPerCell: number;
  readonly #rowWeights: ReadonlyMap<number, Float64Array>;
  readonly #columnWeights: ReadonlyMap<number, Float64Array>;
  #picture: Float32Array | undefined;
  #channels = 0;

  constructor(cells: LatentCells, pixelsPerCell: number, tilePixels: number) {
    assert(Number.isInteger(pixelsPerCell), `${pixelsPerCell} pixels along a cell`);
    const tileCells = Math.max(1, Math.floor(tilePixels / pixelsPerCell));
    const rows = axisTiles(cells.height, tileCells);
    const columns = axisTiles(cells.width, tileCells);
    this.#cells = cells;
    this.#pixelsPerCell = pixelsPerCell;
    this.#rowWeights = weightsByStart(rows, pixelsPerCell);
    this.#columnWeights = weightsByStart(columns, pixelsPerCell);
    this.tiles = rows.starts.flatMap((row) =>
      columns.starts.map((column) => {
        return { row, column, height: rows.cells, width: columns.cells };
      }),
    );
  }

  /** What the decoder is given for a tile. */
  cellsOf({ row, column, height, width }: Tile): LatentCells {
    const { channels, values, ...whole } = this.#cells;
    const part = new Float32Array(channels * height * width);
    for (let channel = 0; channel < channels; channel++) {
      for (let y = 0; y < height; y++) {
        const from = (channel * whole.height + row + y) * whole.width + column;
        part.set(values.subarray(from, from + width), (channel * height + y) * width);
      }
    }
    return { channels, height, width, values: part };
  }

  /** Lays a decoded tile, [1, channels, height, width] in pixels, over the picture. */
  add(tile: Tile, decoded: Tensor): void {
    const scale = this.#pixelsPerCell;
    const [, channels = 0, height = 0, width = 0] = decoded.dims;
    const values = decoded.data as Float32Array;
    const fits = height === tile.height * scale && width === tile.width * scale;
    assert(fits, `a tile of [${decoded.dims}] for ${tile.height} x ${tile.width} cells`);
    const pictureHeight = this.#cells.height * scale;
    const pictureWidth = this.#cells.width * scale;
    this.#channels = channels;
    this.#picture ??= new Float32Array(channels * pictureHeight * pictureWidth);
    const down = this.#rowWeights.get(tile.row)!;
    const across = this.#columnWeights.get(tile.column)!;
    for (let channel = 0; channel < channels; channel++) {
      for (let y = 0; y < height; y++) {
        const from = (channel * height + y) * width;
        const top = channel * pictureHeight + tile.row * scale + y;
        const to = top * pictureWidth + tile.column * scale;
        for (let x = 0; x < width; x++) {
          this.#picture[to + x]! += down[y]! * across[x]! * values[from + x]!;
        }
      }
    }
  }

  /** [1, channels, height, width], once every tile was added. */
  picture(): Tensor {
    assert(this.#picture !== undefined, "a picture without tiles");
    const scale = this.#pixelsPerCell;
    const dims = [1, this.#channels, this.#cells.height * scale, this.#cells.width * scale];
    return float32Tensor(this.#picture, dims);
  }
}

function weightsByStart(axis: AxisTiles, scale: number): ReadonlyMap<number, Float64Array> {
  const weights = axisWeights(axis, scale);
  return new Map(axis.starts.map((start, tile) => [start, weights[tile]!]));
}
