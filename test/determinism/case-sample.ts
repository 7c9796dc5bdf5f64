/** What a case shows of the matrix, and few cases that together show all of it. */
import { Random } from "@fluxline/kernel/random.ts";
import type { CaseSource, MatrixCase } from "./matrix-case.ts";

/** What of the matrix a case shows, as `axis=value`. */
export function facetsOf({ subject, legs }: MatrixCase, source: CaseSource): readonly string[] {
  const { passes, images, shape } = source.catalogue[subject]!;
  return [
    `model=${source.model}`,
    `shape=${shape}`,
    `moves=${legs.length - 1}`,
    ...(passes === 2 ? ["guidance=true"] : []),
    ...(images > 1 ? ["images=several"] : []),
    ...legs.flatMap(({ group, rows, kills }) => [
      `rows=${rows}`,
      `stages=${group.cuts.length + 1}`,
      `threads=${group.threads}`,
      ...(group.linked ? ["links=stage processes"] : []),
      ...kills.map(() => (legs.length > 1 ? "kill=between moves" : "kill=alone")),
    ]),
  ];
}

/**
 * Cases that together show every facet that there is, each model by `perModel` cases or more: taken
 * in an order drawn from the seed, those that show nothing new left out.
 */
export function sampleOf(
  cases: readonly { readonly case: MatrixCase; readonly facets: readonly string[] }[],
  seed: number,
  perModel: number,
): readonly MatrixCase[] {
  const random = new Random(seed);
  const order = cases.map((one) => ({ ...one, place: random.uint32() }));
  order.sort((a, b) => a.place - b.place);
  const shown = new Map<string, number>();
  const wanted = (facet: string): number => (facet.startsWith("model=") ? perModel : 1);
  const sample: MatrixCase[] = [];
  for (const one of order) {
    if (one.facets.every((facet) => (shown.get(facet) ?? 0) >= wanted(facet))) continue;
    for (const facet of one.facets) shown.set(facet, (shown.get(facet) ?? 0) + 1);
    sample.push(one.case);
  }
  return sample;
}
