/** What one rank of a pipeline builds: its own graphs, over byte ranges of its own. */
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { openCheckpoint } from "../adapters/checkpoint-folder.ts";
import { type Checkpoint, component } from "../core/checkpoint.ts";
import { planStages } from "../core/stage-plan.ts";
import { fluxTransformerGraph } from "./flux-transformer.ts";
import { flux1Graphs, flux1Layout } from "./flux1-graphs.ts";

const folder = fileURLToPath(new URL("../../../../models/flux-tiny", import.meta.url));
const BLOCKS = 6;
let tiny: Checkpoint;

beforeAll(async () => {
  tiny = await openCheckpoint(folder);
});

/** "file from-to" of every external initializer. */
function rangesOf(first: number, end: number): string[] {
  const graph = fluxTransformerGraph(component(tiny, "transformer"), "float32", { first, end });
  return graph.initializers.flatMap(({ data }) =>
    "file" in data ? [`${data.file} ${data.offset}-${data.offset + data.length}`] : [],
  );
}

test.each([1, 2, 3, 4, BLOCKS])(
  "%i stages map every byte range of the whole, and none of them twice",
  (stages) => {
    const plan = planStages(flux1Layout(tiny), { stages });
    const parts = plan.stages.map(({ first, end }) => rangesOf(first, end));
    const whole = rangesOf(0, BLOCKS);
    expect(parts.flat().toSorted()).toEqual(whole.toSorted());
    expect(new Set(whole).size).toBe(whole.length);
  },
);

test("a rank builds its components and its stage, and nothing else", () => {
  const stage = { first: 2, end: 4 };
  const graphs = flux1Graphs(tiny, { runType: "float32" }, { stage, components: ["clip", "vae"] });
  expect(graphs.map(({ name }) => name)).toEqual([
    "text_encoder",
    "vae.decoder",
    "transformer.2-3",
  ]);
});
