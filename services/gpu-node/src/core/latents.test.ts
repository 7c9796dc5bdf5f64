import { describe, expect, test } from "vitest";
import {
  latentSize,
  packedSize,
  packLatents,
  toPixels,
  undoScaling,
  unpackLatents,
} from "./latents.ts";
import { float32Tensor } from "./tensor.ts";

test("sizes of a picture of 96 x 64 with an autoencoder of factor 8", () => {
  const size = latentSize(96, 64, 8, 16);
  expect(size).toEqual({ channels: 16, height: 8, width: 12 });
  expect(packedSize(size)).toEqual({ rows: 4, columns: 6, tokens: 24, channels: 64 });
});

test("a size that does not divide into tokens is a programmer's error", () => {
  expect(() => latentSize(72, 64, 8, 16)).toThrow("72 x 64 in steps of 16");
});

describe("packing", () => {
  const size = { channels: 2, height: 4, width: 6 };
  // Each value says where it is: channel, row, column.
  const unpacked = Float32Array.from({ length: 2 * 4 * 6 }, (_, i) => {
    const [channel, row, column] = [Math.floor(i / 24), Math.floor(i / 6) % 4, i % 6];
    return channel * 100 + row * 10 + column;
  });

  test("makes a token of a 2 x 2 patch, channel by channel, each row by row", () => {
    const packed = packLatents(unpacked, size);
    expect([...packed.subarray(0, 8)]).toEqual([0, 1, 10, 11, 100, 101, 110, 111]);
    // The second token stands to the right of the first, the fourth below it.
    expect([...packed.subarray(8, 16)]).toEqual([2, 3, 12, 13, 102, 103, 112, 113]);
    expect([...packed.subarray(24, 32)]).toEqual([20, 21, 30, 31, 120, 121, 130, 131]);
  });

  test("is undone by unpacking", () => {
    expect(unpackLatents(packLatents(unpacked, size), size)).toEqual(unpacked);
  });
});

test("the decoder's input is divided, then shifted, in float32", () => {
  // torch: torch.tensor([0.1, -2.7]) / 0.3611 + 0.1159
  expect([...undoScaling(Float32Array.of(0.1, -2.7), 0.3611, 0.1159)]).toEqual([
    0.39283162355422974, -7.361253261566162,
  ]);
});

describe("pixels", () => {
  function bytes(...values: number[]): number[] {
    const data = Float32Array.from(
      { length: 3 * values.length },
      (_, i) => values[i % values.length]!,
    );
    const { rgb } = toPixels(float32Tensor(data, [1, 3, 1, values.length]));
    return values.map((_, i) => rgb[3 * i]!);
  }

  test("cover -1 .. 1 and stop there", () => {
    expect(bytes(-1, 0.25, 1, -7, 7)).toEqual([0, 159, 255, 0, 255]);
  });

  test("round half-way values to even, as numpy does", () => {
    // 64.5, 120.5, 127.5 and 254.5 of 255.
    const halves = [-0.4941176176071167, -0.054901957511901855, 0, 0.996078372001648];
    expect(bytes(...halves)).toEqual([64, 120, 128, 254]);
  });

  test("stand colour by colour in the tensor, pixel by pixel in the picture", () => {
    const data = Float32Array.of(-1, 1, -1, -1, 1, 1, 1, -1, 1, 1, -1, -1);
    const picture = toPixels(float32Tensor(data, [1, 3, 2, 2]));
    expect(picture).toEqual({
      width: 2,
      height: 2,
      rgb: Uint8Array.of(0, 255, 255, 255, 255, 255, 0, 255, 0, 0, 0, 0),
    });
  });

  test("need three colours", () => {
    expect(() => toPixels(float32Tensor(new Float32Array(4), [1, 1, 2, 2]))).toThrow(
      "[1, 1, 2, 2]",
    );
  });
});
