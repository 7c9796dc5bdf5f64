/**
 * What a request must give: its latents at every boundary, the decoder's numbers and the pixels,
 * computed by the shortest way there is. The whole denoiser, one row, one thread, one process; no
 * driver, no batch, no stage.
 */
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { openSession, type OnnxSession } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import type { SessionOptions } from "@fluxline/gpu-node/adapters/onnx-session.ts";
import type { ImageModel, ImagePlan, TextEncoding } from "@fluxline/gpu-node/core/image-model.ts";
import type { NamedTensors, Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { describeModel, modelLayout } from "@fluxline/gpu-node/models/families.ts";
import { assert } from "@fluxline/kernel/assert.ts";
import { type ImageRequest, resolveRequest } from "@fluxline/kernel/image-request.ts";
import { type CatalogueEntry, catalogueOf } from "./catalogue.ts";

export interface ReferenceImage {
  /** Boundaries 0 to steps. */
  readonly latents: readonly Float32Array[];
  /** The decoder's output, before it is rounded to pixels. */
  readonly decoded: Float32Array;
  readonly rgb: Uint8Array;
}

const CPU: SessionOptions = { provider: "cpu", threads: 1 };

export class Reference {
  readonly model: ImageModel;
  readonly catalogue: readonly CatalogueEntry[];
  /** Blocks of the denoiser, between which it can be cut. */
  readonly blocks: number;
  readonly #sessions: ReadonlyMap<string, OnnxSession>;
  readonly #images = new Map<number, readonly ReferenceImage[]>();

  private constructor(
    model: ImageModel,
    blocks: number,
    sessions: ReadonlyMap<string, OnnxSession>,
  ) {
    this.model = model;
    this.blocks = blocks;
    this.catalogue = catalogueOf(model.profile.sizeMultiple);
    this.#sessions = sessions;
  }

  static async open(folder: string, device = CPU): Promise<Reference> {
    const checkpoint = await openCheckpoint(folder);
    const model = describeModel(checkpoint, { runType: "float32" });
    const sessions = new Map<string, OnnxSession>();
    for (const [name, graph] of model.graphs) sessions.set(name, await openSession(graph, device));
    return new Reference(model, modelLayout(checkpoint).blockCosts.length, sessions);
  }

  async close(): Promise<void> {
    for (const session of this.#sessions.values()) await session.close();
  }

  request(number: number): ImageRequest {
    const entry = this.catalogue[number];
    assert(entry !== undefined, `the catalogue has no request ${number}`);
    const resolution = resolveRequest(this.model.profile, entry.request, 0n);
    if (resolution.ok) return resolution.request;
    throw new Error(`request ${number}: ${JSON.stringify(resolution.violations)}`);
  }

  /** Makes those images known that are not yet. */
  async compute(numbers: Iterable<number>): Promise<void> {
    for (const number of new Set(numbers)) {
      if (this.#images.has(number)) continue;
      this.#images.set(number, await this.#generate(this.request(number)));
    }
  }

  /** The images of the catalogue's request of that number. */
  known(number: number): readonly ReferenceImage[] {
    const images = this.#images.get(number);
    assert(images !== undefined, `request ${number} has not been computed`);
    return images;
  }

  async #generate(request: ImageRequest): Promise<readonly ReferenceImage[]> {
    const plan = this.model.plan(request);
    const { positive, negative } = plan.encodings;
    const texts = {
      positive: await this.#encode(positive),
      ...(negative !== undefined && { negative: await this.#encode(negative) }),
    };
    const images: ReferenceImage[] = [];
    for (const noise of plan.initialLatents()) {
      const latents = await this.#denoise(plan, texts, noise);
      const inputs = plan.decodeInputs(latents.at(-1)!);
      const picture = (await this.#run(this.model.decoder, inputs))[this.model.decoded]!;
      const { rgb } = plan.pixels(picture);
      images.push({ latents, decoded: picture.data as Float32Array, rgb });
    }
    return images;
  }

  async #denoise(
    plan: ImagePlan,
    texts: { readonly positive: NamedTensors; readonly negative?: NamedTensors },
    noise: Float32Array,
  ): Promise<Float32Array[]> {
    const shared = plan.sharedInputs();
    const boundaries = [noise];
    for (let step = 0; step < plan.steps; step++) {
      const latents = boundaries[step]!;
      const row = { ...shared, ...plan.rowInputs(step, latents) };
      const positive = await this.#predict({ ...row, ...texts.positive });
      const negative = texts.negative && (await this.#predict({ ...row, ...texts.negative }));
      const predictions = { positive, ...(negative !== undefined && { negative }) };
      boundaries.push(plan.advance(step, latents, predictions));
    }
    return boundaries;
  }

  async #predict(inputs: NamedTensors): Promise<Float32Array> {
    const [graph, ...more] = this.model.denoiser;
    assert(graph !== undefined && more.length === 0, "the reference is not cut");
    return (await this.#run(graph, inputs))[this.model.prediction]!.data as Float32Array;
  }

  async #encode({ runs }: TextEncoding): Promise<NamedTensors> {
    const conditioning: Record<string, Tensor> = {};
    for (const { graph, inputs, outputs } of runs) {
      const results = await this.#run(graph, inputs);
      for (const [from, to] of Object.entries(outputs)) conditioning[to] = results[from]!;
    }
    return conditioning;
  }

  #run(graph: string, inputs: NamedTensors): Promise<NamedTensors> {
    const session = this.#sessions.get(graph);
    assert(session !== undefined, `no session for ${graph}`);
    return session.run(inputs);
  }
}
