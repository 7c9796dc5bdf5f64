/** Where calls and retained tensors go, with devices that only remember what they were given. */
import { expect, test } from "vitest";
import type { Graph, TensorSpec } from "../core/image-model.ts";
import { float32Tensor } from "../core/tensor.ts";
import { GroupDevices } from "./group-devices.ts";
import type { GraphCall } from "./runner/device-runner.ts";
import type { StageDevice, StageResult } from "./stage-device.ts";

const spec = (name: string): TensorSpec => ({ name, type: "float32", dims: ["B", 1] });

function graph(name: string, inputs: string[], outputs: string[]): Graph {
  const onnx = new Uint8Array();
  return {
    name,
    onnx,
    inputs: inputs.map(spec),
    outputs: outputs.map(spec),
    weightBytes: 0,
    weights: [],
    quantised: [],
  };
}

const GRAPHS = [
  graph("encoder", ["ids"], ["text"]),
  graph("front", ["latents", "text", "tables"], ["x", "temb"]),
  graph("back", ["x", "temb", "tables", "length"], ["sample"]),
  graph("decoder", ["latent_sample"], ["picture"]),
];

class RememberingDevice implements StageDevice {
  readonly calls: (readonly GraphCall[])[] = [];
  readonly retained = new Map<string, string[]>();

  async run(hops: readonly GraphCall[]): Promise<StageResult> {
    this.calls.push(hops);
    return { tensors: {}, seconds: hops.map((_, index) => index + 1) };
  }

  retain(key: string, tensors: Record<string, unknown>): void {
    this.retained.set(key, Object.keys(tensors));
  }

  release(key: string): void {
    if (!this.retained.delete(key)) throw new Error(`${key} was never here`);
  }

  async start(): Promise<void> {}
  async stop(): Promise<void> {}

  health() {
    return {
      rank: 0,
      provider: "cpu",
      ready: true,
      rssBytes: 0,
      restarts: 0,
      busySeconds: 0,
      upSeconds: 0,
    };
  }
}

function group(): { devices: GroupDevices; made: RememberingDevice[] } {
  const made = [new RememberingDevice(), new RememberingDevice(), new RememberingDevice()];
  const model = {
    graphs: new Map(GRAPHS.map((one) => [one.name, one])),
    denoiser: ["front", "back"],
  };
  const places = new Map([
    ["encoder", 1],
    ["decoder", 2],
  ]);
  return { devices: new GroupDevices({ model, devices: made, places, decodeTile: 0 }), made };
}

const one = float32Tensor(Float32Array.of(1), [1, 1]);

test("a graph runs on the device where it is placed", async () => {
  const { devices, made } = group();
  const call = { graph: "decoder", inputs: { latent_sample: [{ tensor: one }] }, outputs: [] };
  expect(await devices.run(call)).toMatchObject({ seconds: 1 });
  expect(made.map(({ calls }) => calls.length)).toEqual([0, 0, 1]);
});

test("a step is given to the first stage as a chain; each hop has the inputs that it takes", async () => {
  const { devices, made } = group();
  const inputs = {
    latents: [{ tensor: one }],
    text: [{ key: "prompt", name: "text" }],
    tables: [{ key: "shape", name: "tables" }],
    length: [{ key: "shape", name: "length" }],
    unknown: [{ tensor: one }],
  };
  const { stageSeconds } = await devices.runChain({ inputs, outputs: ["sample"] });
  expect(stageSeconds).toEqual([1, 2]);
  const [front, back] = made[0]!.calls[0]!;
  expect(Object.keys(front!.inputs)).toEqual(["latents", "text", "tables"]);
  expect(front!.outputs).toEqual(["x", "temb"]);
  // x and temb come of the stage before.
  expect(Object.keys(back!.inputs)).toEqual(["tables", "length"]);
  expect(back!.outputs).toEqual(["sample"]);
  expect(made.slice(1).every(({ calls }) => calls.length === 0)).toBe(true);
});

test("tensors are retained where a graph takes them, and released there only", () => {
  const { devices, made } = group();
  devices.retain("prompt", { text: one });
  devices.retain("shape", { tables: one, length: one });
  expect(made.map(({ retained }) => Object.fromEntries(retained))).toEqual([
    { prompt: ["text"], shape: ["tables"] },
    { shape: ["tables", "length"] },
    {},
  ]);
  devices.release("shape");
  devices.release("prompt");
  expect(made.every(({ retained }) => retained.size === 0)).toBe(true);
});
