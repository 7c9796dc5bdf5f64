/** What the engine keeps of a job when a step of it goes wrong; the devices answer by hand. */
import { expect, test } from "vitest";
import { AppError } from "@fluxline/kernel/error.ts";
import type { ImageRequest } from "@fluxline/kernel/image-request.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";
import type { ImageModel, ImagePlan } from "../core/image-model.ts";
import { ONE_DEVICE } from "../core/step-batcher.ts";
import { float32Tensor } from "../core/tensor.ts";
import { Engine, type EngineListener, type EngineUnit } from "./engine.ts";
import type { GroupDevices } from "./group-devices.ts";

const STEPS = 4;

/** One latent that each step adds its prediction to; the text is encoded by two runs. */
function buildPlan(): ImagePlan {
  const runs = ["clip", "t5"].map((graph) => ({ graph, inputs: {}, outputs: { out: graph } }));
  const plan: Partial<ImagePlan> = {
    request: { previewCount: 0 } as ImageRequest,
    advisories: [],
    shapeKey: "s",
    steps: STEPS,
    encodings: { positive: { key: "text", runs } },
    initialLatents: () => [Float32Array.of(0)],
    sharedInputs: () => ({}),
    rowInputs: (_, latents) => ({ latents: float32Tensor(latents, [1, 1]) }),
    advance: (_, latents, { positive }) => latents.map((value, i) => value + positive[i]!),
  };
  return plan as ImagePlan;
}

/** An engine whose calls are answered by the test, in the order in which they came. */
function openBench() {
  const calls: { graph: string; answer: (value: number | AppError) => void }[] = [];
  const call = (graph: string) =>
    new Promise<Record<string, unknown>>((resolve, reject) => {
      const answer = (value: number | AppError): void => {
        if (value instanceof AppError) return reject(value);
        const tensor = float32Tensor(Float32Array.of(value), [1, 1]);
        resolve({ tensors: { out: tensor }, seconds: 0, stageSeconds: [0] });
      };
      calls.push({ graph, answer });
    });
  const devices = {
    decodeTile: 0,
    run: ({ graph }: { graph: string }) => call(graph),
    runChain: () => call("step"),
    retain: () => undefined,
    release: () => undefined,
  };
  const model = { profile: { memory: [] }, prediction: "out", cellChannels: 16, plan: buildPlan };
  const ends: { kind: string; units?: readonly Required<EngineUnit>[] }[] = [];
  const listener: Partial<EngineListener> = {
    started: () => undefined,
    progress: () => undefined,
    boundary: () => undefined,
    failed: () => void ends.push({ kind: "failed" }),
    released: (_, kind, units) => void ends.push({ kind, units }),
    drained: () => undefined,
  };
  const limits = {
    rowsMax: 1,
    residentsMax: 4,
    batching: "full" as const,
    stepsInFlightMax: 1,
    devices: ONE_DEVICE,
  };
  const engine = new Engine(
    model as unknown as ImageModel,
    devices as unknown as GroupDevices,
    limits,
    { store: () => Promise.resolve() },
    listener as EngineListener,
    realClock,
  );
  const settle = () => new Promise((resolve) => setTimeout(resolve, 1));
  /** The next call, once the engine has made it. */
  const next = async () => {
    while (calls.length === 0) await settle();
    return calls.shift()!;
  };
  const begin = (): void => {
    const request = {} as ImageRequest;
    const terms = { tenant: "t", share: 1, priorityClass: "standard" } as const;
    engine.assign({ id: "a", request, units: [{ index: 0, step: 0 }], alone: false, ...terms });
  };
  return { engine, calls, ends, next, settle, begin };
}

test("latents that are not finite are never handed over: the boundary before them is", async () => {
  const { engine, ends, next, settle, begin } = openBench();
  begin();
  (await next()).answer(0); // clip
  (await next()).answer(0); // t5
  (await next()).answer(1); // step 1
  const second = await next();
  engine.drain();
  second.answer(Number.NaN);
  while (ends.length === 0) await settle();
  const units = [{ index: 0, step: 1, latents: Float32Array.of(1) }];
  expect(ends).toEqual([{ kind: "drained", units }]);
});

test("a text encoding that failed begins again only when all of its runs have ended", async () => {
  const { calls, next, settle, begin } = openBench();
  begin();
  const [clip, t5] = [await next(), await next()];
  t5.answer(new AppError("unavailable", "lost", { reason: "STAGE_LOST", retryable: true }));
  for (let i = 0; i < 5; i++) await settle();
  expect(calls).toEqual([]);
  clip.answer(0);
  expect([(await next()).graph, (await next()).graph]).toEqual(["clip", "t5"]);
});
