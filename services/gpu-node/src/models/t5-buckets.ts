/**
 * T5's buckets of relative position, both directions: half of them for keys after the query; in
 * each half the near distances have one bucket each, the far ones share buckets that grow with the
 * logarithm of the distance up to `distanceMax`.
 */

const { fround } = Math;

/**
 * Bucket of `key - query`. Every operation rounds to float32, as the reference implementation's
 * does: at a bucket's edge the last bit decides.
 */
export function relativeBucket(distance: number, buckets: number, distanceMax: number): number {
  const half = buckets / 2;
  const near = Math.floor(half / 2);
  const after = distance > 0 ? half : 0;
  const apart = Math.abs(distance);
  if (apart < near) return after + apart;
  const grown = fround(
    fround(Math.log(fround(apart / near))) / fround(Math.log(distanceMax / near)),
  );
  const far = near + Math.trunc(fround(grown * (half - near)));
  return after + Math.min(far, half - 1);
}

/** Buckets of the distances -distanceMax .. distanceMax; beyond, the outermost holds. */
export function bucketTable(buckets: number, distanceMax: number): number[] {
  return Array.from({ length: 2 * distanceMax + 1 }, (_, index) =>
    relativeBucket(index - distanceMax, buckets, distanceMax),
  );
}
