import { expect, test } from "vitest";
import { bucketTable, relativeBucket } from "./t5-buckets.ts";

// From transformers' T5Attention._relative_position_bucket with 32 buckets and distance 128.
test.for<[number, number]>([
  [0, 0],
  [-1, 1],
  [1, 17],
  [-7, 7],
  [7, 23],
  [-8, 8],
  [8, 24],
  [-11, 8],
  [-12, 9],
  [-15, 9],
  [-16, 10],
  [16, 26],
  [-32, 12],
  [-63, 13],
  [-64, 14],
  [64, 30],
  [-90, 14],
  [-91, 15],
  [-127, 15],
  [-128, 15],
  [128, 31],
  [-100_000, 15],
  [100_000, 31],
])("distance %i is in bucket %i", ([distance, bucket]) => {
  expect(relativeBucket(distance, 32, 128)).toBe(bucket);
});

test("the table covers every distance that has a bucket of its own", () => {
  for (const [buckets, distanceMax] of [
    [32, 128],
    [16, 40],
    [8, 20],
    [4, 2],
  ] as const) {
    const table = bucketTable(buckets, distanceMax);
    expect(table).toHaveLength(2 * distanceMax + 1);
    expect(Math.min(...table)).toBe(0);
    expect(Math.max(...table)).toBe(buckets - 1);
    expect(table[0]).toBe(relativeBucket(-10 * distanceMax, buckets, distanceMax));
    expect(table.at(-1)).toBe(relativeBucket(10 * distanceMax, buckets, distanceMax));
  }
});
