import { AppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { describe, expect, test } from "vitest";
import {
  componentsAt,
  deviceMap,
  type ModelLayout,
  type Place,
  planDigest,
  type PlanRequest,
  planStages,
} from "./stage-plan.ts";

const layoutOf = (...blockCosts: number[]): ModelLayout => ({
  blockCosts,
  components: [
    { name: "clip", graph: "text_encoder", use: "encode" },
    { name: "t5", graph: "text_encoder_2", use: "encode" },
    { name: "vae", graph: "vae.decoder", use: "decode" },
  ],
});

const cutsOf = (costs: readonly number[], stages: number): number[] =>
  planStages(layoutOf(...costs), { stages })
    .stages.slice(1)
    .map(({ first }) => first);

describe("cuts by cost", () => {
  test.each<[string, number[], number, number[]]>([
    ["one stage has none", [1, 1, 1], 1, []],
    ["equal blocks are cut evenly", [1, 1, 1, 1, 1, 1], 3, [2, 4]],
    ["a stage for each block", [5, 1, 9], 3, [1, 2]],
    ["a costly block stands alone", [1, 1, 10, 1, 1], 3, [2, 3]],
    ["what is left over is spread", [1, 1, 1, 1, 1, 1, 1], 3, [2, 4]],
    ["equal for the slowest: the more even", [4, 1, 1, 1, 1], 3, [1, 3]],
  ])("%s", (_, costs, stages, cuts) => {
    expect(cutsOf(costs, stages)).toEqual(cuts);
  });

  test("no other cut has a faster slowest stage", () => {
    const seed = 20261123;
    const random = new Random(seed);
    for (let round = 0; round < 50; round++) {
      const blocks = 2 + random.below(7);
      const costs = Array.from({ length: blocks }, () => 1 + random.below(20));
      for (let stages = 1; stages <= blocks; stages++) {
        const chosen = slowest(costs, cutsOf(costs, stages));
        const others = allCuts(blocks, stages).map((cuts) => slowest(costs, cuts));
        expect(chosen, `seed ${seed}: ${costs} over ${stages}`).toBe(Math.min(...others));
      }
    }
  });

  test("shares are parts of the whole work", () => {
    const { shares } = planStages(layoutOf(1, 1, 2), { stages: 2 });
    expect(shares).toEqual([0.5, 0.5]);
  });
});

describe("places", () => {
  const layout = layoutOf(1, 1, 1, 1);
  const place = (stages: number, places?: [string, Place][]) =>
    planStages(layout, { stages, places: new Map(places) });

  test("text is encoded at the first rank and pictures are decoded at the last, unless said", () => {
    expect(Object.fromEntries(place(3).places)).toEqual({ clip: 0, t5: 0, vae: 2 });
    const plan = place(3, [
      ["t5", 1],
      ["vae", "cpu"],
    ]);
    expect(Object.fromEntries(plan.places)).toEqual({ clip: 0, t5: 1, vae: "cpu" });
    expect(deviceMap(layout, plan)).toEqual({ step: [0, 1, 2], encode: [0, 1], decode: [3] });
    expect(componentsAt(layout, plan, "cpu").map(({ graph }) => graph)).toEqual(["vae.decoder"]);
    expect(componentsAt(layout, plan, 2)).toEqual([]);
  });
});

describe("what does not fit is refused with the numbers", () => {
  const refusal = (request: PlanRequest): string => {
    try {
      planStages(layoutOf(1, 1, 1, 1), request);
    } catch (thrown) {
      if (thrown instanceof AppError && thrown.reason === "INVALID_PLAN") return thrown.message;
      throw thrown;
    }
    return "accepted";
  };

  test.each<[string, PlanRequest, string]>([
    ["more stages than blocks", { stages: 5 }, "--stages: is 5; the model has 4 blocks"],
    ["no stage", { stages: 0 }, "use 1 to 4"],
    ["too few cuts", { stages: 3, cuts: [2] }, "--cuts: is 2: 1 cuts; 3 stages have 2"],
    ["cuts that do not rise", { stages: 3, cuts: [2, 2] }, "--cuts: is 2,2; use rising"],
    ["a cut before the first block", { stages: 2, cuts: [0] }, "between 1 and 3"],
    ["a cut behind the last block", { stages: 2, cuts: [4] }, "between 1 and 3"],
    ["an unknown part", { stages: 1, places: new Map([["unet", 0]]) }, "names unet; use clip"],
    ["a rank that is not there", { stages: 2, places: new Map([["t5", 2]]) }, "from 0 to 1"],
  ])("%s", (_, request, words) => {
    expect(refusal(request)).toContain(words);
  });

  test("all of it at once", () => {
    const message = refusal({ stages: 9, places: new Map([["unet", 0]]) });
    expect(message).toContain("--stages");
    expect(message).toContain("--place");
  });
});

test("ranks of different plans have different digests", () => {
  const layout = layoutOf(1, 1, 1, 1);
  const facts = { modelDigest: "0123456789abcdef0123", runType: "float32", recipe: "fused" };
  const digest = planDigest(planStages(layout, { stages: 2, cuts: [1] }), facts);
  expect(digest).toBe(
    "model=0123456789abcdef type=float32 recipe=fused stages=2 cuts=1 places=clip:0,t5:0,vae:1",
  );
  const other = planStages(layout, { stages: 2, cuts: [3] });
  expect(planDigest(other, facts)).not.toBe(digest);
});

function allCuts(blocks: number, stages: number, from = 1): number[][] {
  if (stages === 1) return [[]];
  const found: number[][] = [];
  for (let cut = from; cut < blocks; cut++) {
    for (const rest of allCuts(blocks, stages - 1, cut + 1)) found.push([cut, ...rest]);
  }
  return found;
}

function slowest(costs: readonly number[], cuts: readonly number[]): number {
  const firsts = [0, ...cuts];
  const stages = firsts.map((first, i) => costs.slice(first, firsts[i + 1] ?? costs.length));
  return Math.max(...stages.map((stage) => stage.reduce((sum, cost) => sum + cost, 0)));
}
