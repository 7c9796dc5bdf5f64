import { describe, expect, test } from "vitest";
import { Random } from "@fluxline/kernel/random.ts";
import {
  axisTiles,
  axisWeights,
  OVERLAP_CELLS_MIN,
  OVERLAP_SHARE,
  TiledPicture,
} from "./decode-tiles.ts";
import { float32Tensor, type Tensor } from "./tensor.ts";

describe("along an axis", () => {
  test.each<[string, number, number, number[], number]>([
    ["a picture no longer than a tile is one tile of its own length", 12, 16, [0], 12],
    ["a picture as long as a tile is one", 16, 16, [0], 16],
    ["tiles share a quarter of their side", 28, 16, [0, 12], 16],
    ["the last one is shifted back to the edge", 30, 16, [0, 12, 14], 16],
    ["small tiles share at least some cells", 20, 8, [0, 4, 8, 12], 8],
    ["a tile of a cell or two shares no more than half of it", 5, 2, [0, 1, 2, 3], 2],
    ["a tile of one cell shares nothing", 3, 1, [0, 1, 2], 1],
  ])("%s", (_, length, tile, starts, cells) => {
    expect(axisTiles(length, tile)).toEqual({ starts, cells });
  });

  test("two tiles fade into one another linearly", () => {
    const [first, second] = axisWeights({ starts: [0, 2], cells: 4 }, 2);
    expect([...first!]).toEqual([1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125]);
    expect([...second!]).toEqual([0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1]);
  });
});

/** What a decoder gives that makes each cell a square of its own value in every channel. */
function squares(
  cells: { height: number; width: number; values: Float32Array },
  scale: number,
): Tensor {
  const [height, width] = [cells.height * scale, cells.width * scale];
  const data = new Float32Array(3 * height * width);
  for (let at = 0; at < data.length; at++) {
    const y = Math.floor(at / width) % height;
    data[at] =
      cells.values[Math.floor(y / scale) * cells.width + Math.floor((at % width) / scale)]!;
  }
  return float32Tensor(data, [1, 3, height, width]);
}

function assemble(
  values: Float32Array,
  height: number,
  width: number,
  tile: number,
  scale: number,
) {
  const cells = { channels: 1, height, width, values };
  const tiled = new TiledPicture(cells, scale, tile);
  for (const each of tiled.tiles) tiled.add(each, squares(tiled.cellsOf(each), scale));
  return { tiled, picture: tiled.picture(), whole: squares(cells, scale) };
}

function largestDifference(a: Tensor, b: Tensor): number {
  expect(a.dims).toEqual(b.dims);
  const [one, other] = [a.data as Float32Array, b.data as Float32Array];
  return one.reduce((most, value, i) => Math.max(most, Math.abs(value - other[i]!)), 0);
}

describe("a picture put together", () => {
  test("of one grey is that grey", () => {
    const { picture, whole } = assemble(new Float32Array(30 * 22).fill(0.7), 30, 22, 64, 8);
    expect(largestDifference(picture, whole)).toBeLessThan(1e-6);
  });

  test("of a ramp is that ramp", () => {
    const values = Float32Array.from({ length: 30 * 22 }, (_, at) => at / 660);
    const { picture, whole } = assemble(values, 30, 22, 64, 8);
    expect(largestDifference(picture, whole)).toBeLessThan(1e-6);
  });

  test("of one tile is what the decoder gave, bit by bit", () => {
    const values = Float32Array.from({ length: 20 }, (_, at) => Math.sin(at));
    const { tiled, picture, whole } = assemble(values, 4, 5, 64, 8);
    expect(tiled.tiles).toEqual([{ row: 0, column: 0, height: 4, width: 5 }]);
    expect(picture.data).toEqual(whole.data);
  });

  test("fades from one tile to the next where they do not agree", () => {
    const tiled = new TiledPicture(
      { channels: 1, height: 4, width: 28, values: new Float32Array(4 * 28) },
      1,
      16,
    );
    for (const [i, tile] of tiled.tiles.entries()) {
      tiled.add(tile, float32Tensor(new Float32Array(4 * 16).fill(i), [1, 1, 4, 16]));
    }
    const row = [...(tiled.picture().data as Float32Array).subarray(0, 28)];
    expect(row.slice(10, 18)).toEqual([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]);
  });
});

const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);
test(`tiles of any size cover all, overlap and weigh 1 everywhere (FLUXLINE_SEED=${seed})`, () => {
  const random = new Random(seed);
  for (let round = 0; round < 400; round++) {
    const scale = 1 + random.below(8);
    const tile = 1 + random.below(24);
    const length = 1 + random.below(120);
    const axis = axisTiles(length, tile);
    const name = `${length} cells, tiles of ${tile}, scale ${scale}`;
    expect(axis.starts.at(-1)! + axis.cells, name).toBe(length);
    const sums = new Float64Array(length * scale);
    let lowest = Infinity;
    const weights = axisWeights(axis, scale);
    for (const [i, start] of axis.starts.entries()) {
      for (const [at, weight] of weights[i]!.entries()) {
        lowest = Math.min(lowest, weight);
        sums[start * scale + at]! += weight;
      }
      if (i === 0) continue;
      const shared = axis.starts[i - 1]! + axis.cells - start;
      const least = Math.max(Math.ceil(tile * OVERLAP_SHARE), OVERLAP_CELLS_MIN);
      expect(shared, name).toBeGreaterThanOrEqual(Math.min(least, Math.floor(tile / 2)));
    }
    expect(lowest, name).toBeGreaterThanOrEqual(0);
    const furthest = sums.reduce((most, sum) => Math.max(most, Math.abs(sum - 1)), 0);
    expect(furthest, name).toBeLessThan(1e-12);
  }
});
