/** The seed of a random test: printed, and taken from FLUXLINE_SEED to replay a failure. */
export function testSeed(): number {
  const seed = Number(process.env["FLUXLINE_SEED"] ?? Date.now() % 2 ** 31);
  console.log(`FLUXLINE_SEED=${seed} replays this test`);
  return seed;
}
