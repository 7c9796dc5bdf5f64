/**
 * All devices of a replica group behind one face. A graph runs wherever the plan has placed it; a
 * step passes every stage, one after another, while other steps are at the stages before and
 * behind it. The engine knows neither ranks nor links.
 *
 *   runChain   stage 0 -> stage 1 -> .. -> stage S-1
 *   run        text encoders, decoder: on one stage, or on the CPU beside rank 0
 *   retain     to the devices whose graphs take the tensors, and to no others
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { ImageModel } from "../core/image-model.ts";
import type { NamedTensors } from "../core/tensor.ts";
import type { GraphCall, GraphResult, InputPart } from "./runner/device-runner.ts";
import type { StageDevice, StageHealth } from "./stage-device.ts";

/** One pass through the denoiser. Inputs that no stage takes are ignored. */
export interface ChainCall {
  readonly inputs: Readonly<Record<string, readonly InputPart[]>>;
  readonly outputs: readonly string[];
}

export interface ChainResult {
  readonly tensors: NamedTensors;
  /** Seconds on the device of each stage, by rank. */
  readonly stageSeconds: readonly number[];
}

export interface GroupDevicesOptions {
  readonly model: Pick<ImageModel, "graphs" | "denoiser">;
  /** By index: the stages in order, then what is beside them. */
  readonly devices: readonly StageDevice[];
  /** Index of the device of each graph that is no stage of the denoiser. */
  readonly places: ReadonlyMap<string, number>;
  /** Pixels along a side of the tiles in which larger pictures are decoded; 0: none are. */
  readonly decodeTile: number;
}

export class GroupDevices {
  readonly #options: GroupDevicesOptions;
  /** Names of the inputs of all graphs on each device. */
  readonly #wanted: readonly ReadonlySet<string>[];
  /** Devices that hold a key. */
  readonly #holders = new Map<string, readonly StageDevice[]>();

  constructor(options: GroupDevicesOptions) {
    this.#options = options;
    this.#wanted = options.devices.map((_, index) => {
      const here = this.graphsAt(index).flatMap((graph) => this.#spec(graph).inputs);
      return new Set(here.map(({ name }) => name));
    });
  }

  get decodeTile(): number {
    return this.#options.decodeTile;
  }

  /** Names of the graphs of a device. */
  graphsAt(index: number): string[] {
    const { model, places } = this.#options;
    const stage = model.denoiser[index];
    const placed = [...places].filter(([, place]) => place === index).map(([graph]) => graph);
    return stage === undefined ? placed : [...placed, stage];
  }

  /** Resolves when every device is ready; rejects with the reason of the first that cannot be. */
  async start(): Promise<void> {
    await Promise.all(this.#options.devices.map((device) => device.start()));
  }

  async stop(): Promise<void> {
    await Promise.all(this.#options.devices.map((device) => device.stop()));
  }

  health(): StageHealth[] {
    return this.#options.devices.map((device) => device.health());
  }

  /** Runs a graph where it is placed. */
  async run(call: GraphCall): Promise<GraphResult> {
    const place = this.#options.places.get(call.graph);
    assert(place !== undefined, `graph ${call.graph} is not placed`);
    const { tensors, seconds } = await this.#device(place).run([call]);
    return { tensors, seconds: seconds[0] ?? 0 };
  }

  async runChain({ inputs, outputs }: ChainCall): Promise<ChainResult> {
    const { denoiser } = this.#options.model;
    const hops = denoiser.map((graph, rank): GraphCall => {
      const spec = this.#spec(graph);
      const taken = spec.inputs.flatMap(({ name }) => {
        const parts = inputs[name];
        return parts === undefined ? [] : [[name, parts]];
      });
      const isLast = rank === denoiser.length - 1;
      return {
        graph,
        inputs: Object.fromEntries(taken),
        outputs: isLast ? outputs : spec.outputs.map(({ name }) => name),
      };
    });
    const { tensors, seconds } = await this.#device(0).run(hops);
    return { tensors, stageSeconds: seconds };
  }

  retain(key: string, tensors: NamedTensors): void {
    const holders: StageDevice[] = [];
    this.#options.devices.forEach((device, index) => {
      const wanted = Object.entries(tensors).filter(([name]) => this.#wanted[index]!.has(name));
      if (wanted.length === 0) return;
      device.retain(key, Object.fromEntries(wanted));
      holders.push(device);
    });
    this.#holders.set(key, holders);
  }

  release(key: string): void {
    for (const device of this.#holders.get(key) ?? []) device.release(key);
    this.#holders.delete(key);
  }

  #device(index: number): StageDevice {
    const device = this.#options.devices[index];
    assert(device !== undefined, `the group has no device ${index}`);
    return device;
  }

  #spec(graph: string) {
    const spec = this.#options.model.graphs.get(graph);
    assert(spec !== undefined, `the model has no graph ${graph}`);
    return spec;
  }
}
