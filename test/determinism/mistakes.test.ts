/**
 * The matrix can fail: mistakes that a batcher, a pipeline or a checkpoint could make are made on
 * purpose, and each must be found at the first boundary that it spoils.
 */
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { layOutDevices } from "@fluxline/gpu-node/adapters/group-devices-layout.ts";
import { DeviceRunner } from "@fluxline/gpu-node/adapters/runner/device-runner.ts";
import { deviceMap, planStages } from "@fluxline/gpu-node/core/stage-plan.ts";
import { describeModel, modelLayout } from "@fluxline/gpu-node/models/families.ts";
import type { ImageModel, ImagePlan } from "@fluxline/gpu-node/core/image-model.ts";
import type { ImageRequest } from "@fluxline/kernel/image-request.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { testSeed } from "../support/seed.ts";
import { type Plant, runCase } from "./case-run.ts";
import { GroupPool, type MatrixGroup } from "./group-pool.ts";
import type { Leg, MatrixCase } from "./matrix-case.ts";
import { type MatrixModel, MatrixModels } from "./models.ts";

const seed = testSeed();
const groups = new GroupPool(6);
let models: MatrixModels;
let model: MatrixModel;
/** A request of 14 steps and one image that is moved once, from one stage to two. */
let moved: MatrixCase;

beforeAll(async () => {
  models = await MatrixModels.open(seed);
  model = models.all[0]!;
  const { catalogue } = model.reference;
  const subject = catalogue.findIndex(({ steps, images, passes }) => {
    return steps === 14 && images === 1 && passes === 1;
  });
  const stranger = catalogue.findIndex(({ shape, steps }, number) => {
    return number !== subject && shape === catalogue[subject]!.shape && steps > 5;
  });
  const leg = (cuts: readonly number[], until: number | undefined): Leg => {
    const group = { cuts, threads: 1, linked: false };
    return { group, rows: 2, strangers: [stranger], before: 1, kills: [], until };
  };
  moved = { name: "moved once", subject, legs: [leg([], 5), leg([3], undefined)] };
});

afterAll(async () => {
  await groups.close();
  await models.close();
});

const differences = async (
  plant?: Plant,
  one = moved,
  among: Pick<GroupPool, "group"> = groups,
): Promise<string> => {
  const { folder, reference } = model;
  const parts = { folder, reference, groups: among, ...(plant && { plant }) };
  const evidence = await runCase(one, parts);
  return evidence.differences.join("\n");
};

/** A plant that changes the plan of the subject only. */
const inPlan = (change: (plan: ImagePlan, model: ImageModel) => Partial<ImagePlan>): Plant => ({
  model: (right, subject: ImageRequest) => ({
    ...right,
    plan: (request) => {
      const plan = right.plan(request);
      return request.seed === subject.seed ? { ...plan, ...change(plan, right) } : plan;
    },
  }),
});

/** Latents with one bit turned. */
function spoilt({ latents }: { readonly latents: Float32Array }): Float32Array {
  const copy = latents.slice();
  new Uint32Array(copy.buffer)[7]! ^= 1;
  return copy;
}

test("without a mistake nothing differs", async () => {
  expect(await differences()).toBe("");
});

test("the noise of another seed is found at the first boundary", async () => {
  const plant = inPlan((plan, right) => ({
    initialLatents: () => right.plan({ ...plan.request, seed: 1n }).initialLatents(),
  }));
  expect(await differences(plant)).toContain("the subject, in a batch: boundary 1:");
});

test("a neighbour's guidance in one step is found at the next boundary", async () => {
  const plant = inPlan((plan, right) => {
    const neighbour = right.plan({ ...plan.request, guidance: plan.request.guidance + 0.1 });
    return {
      rowInputs: (step, latents) => (step === 3 ? neighbour : plan).rowInputs(step, latents),
    };
  });
  const found = await differences(plant);
  expect(found).toContain("the subject, in a batch: boundary 4:");
  expect(found).not.toContain("boundary 3:");
});

test("a step that is done twice, and one that is left out, are found", async () => {
  const twice = inPlan((plan) => ({
    advance: (step, latents, prediction) => {
      const once = plan.advance(step, latents, prediction);
      return step === 2 ? plan.advance(step, once, prediction) : once;
    },
  }));
  expect(await differences(twice)).toContain("boundary 3:");
  const none = inPlan((plan) => ({
    advance: (step, latents, prediction) => {
      return step === 9 ? latents : plan.advance(step, latents, prediction);
    },
  }));
  expect(await differences(none)).toContain("leg 2 of 2, the subject, in a batch: boundary 10:");
});

test("the prediction of another row is found", async () => {
  let last: Float32Array | undefined;
  const plant: Plant = {
    model: (right, subject) => ({
      ...right,
      plan: (request) => {
        const plan = right.plan(request);
        return {
          ...plan,
          advance: (step, latents, predictions) => {
            const isSubject = request.seed === subject.seed;
            if (!isSubject) last = predictions.positive;
            const wrong = isSubject && step === 4 && last !== undefined;
            return plan.advance(step, latents, wrong ? { positive: last! } : predictions);
          },
        };
      },
    }),
  };
  expect(await differences(plant)).toContain("the subject, in a batch: boundary 5:");
});

/** A group of two stages that both run block 3 of flux-tiny. */
async function overlappingGroup(folder: string): Promise<MatrixGroup> {
  const checkpoint = await openCheckpoint(folder);
  const layout = modelLayout(checkpoint);
  const right = planStages(layout, { stages: 2, cuts: [4] });
  const stages = [
    { first: 0, end: 4 },
    { first: 3, end: 6 },
  ];
  const plan = { ...right, stages };
  const wrong = describeModel(checkpoint, { runType: "float32", stages });
  const devices = layOutDevices({
    model: wrong,
    layout,
    plan,
    provider: "cpu",
    makeRunner: ({ role, graphs }) =>
      new DeviceRunner({
        device: { provider: "cpu", threads: 1 },
        role,
        graphs,
        environment: process.env,
        log: () => undefined,
        onBroken: () => undefined,
      }),
  });
  await devices.start();
  return {
    model: wrong,
    devices,
    plan: deviceMap(layout, plan),
    stages: 2,
    onStep: () => undefined,
    kill: () => expect.unreachable(),
    restarts: () => 0,
    close: () => devices.stop(),
  };
}

test("a block that two stages run cannot pass: what is handed on names the next block", async () => {
  const wrong = await overlappingGroup(model.folder);
  const found = await differences(undefined, moved, {
    group: (folder, shape) =>
      shape.cuts.length === 0 ? groups.group(folder, shape) : Promise.resolve(wrong),
  }).finally(() => wrong.close());
  expect(found).toMatch(/leg 2 of 2: the subject failed: .* input temb\.3 is missing/);
});

test("a checkpoint that is one step off is found where it arrives, and in the next step", async () => {
  const carry: Plant["carry"] = (units) => units.map((unit) => ({ ...unit, step: unit.step + 1 }));
  const found = await differences({ carry });
  expect(found).toContain("leg 1 of 2, carried on: boundary");
  expect(found).toMatch(/leg 2 of 2, the subject, in a batch: boundary/);
});

test("one bit of a checkpoint is found where it arrives", async () => {
  // The lowest bit of one number: the next step's rounding may well swallow it.
  const carry: Plant["carry"] = (units) =>
    units.map((unit) => ({ ...unit, latents: spoilt(unit) }));
  expect(await differences({ carry })).toMatch(
    /carried on: boundary \d+: 1 of \d+ values differ, first 7/,
  );
});

test("a picture of other latents is found although every boundary was right", async () => {
  const plant = inPlan((plan) => ({
    decodeInputs: (latents) => plan.decodeInputs(latents.map((value) => value * 1.001)),
  }));
  const found = await differences(plant);
  expect(found).toContain("finished: the decoded picture:");
  expect(found).not.toContain("boundary");
});

test("a case that does not do what it says is no proof", async () => {
  const [first] = moved.legs;
  const lonely: Leg = { ...first!, strangers: [], before: 0, until: undefined };
  const found = await differences(undefined, { ...moved, legs: [lonely], rowsToSee: 2 });
  expect(found).toBe("the subject was in batches of 1 rows, never of 2");
  const unmoved = { ...moved, legs: [{ ...first!, until: 99 }, moved.legs[1]!] };
  expect(await differences(undefined, unmoved)).toContain("moved 0 times, not 1");
});
