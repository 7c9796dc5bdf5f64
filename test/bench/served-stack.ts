/** `fluxline up` as a user runs it, for benchmarks: started, asked for pictures, stopped. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { credentials } from "@grpc/grpc-js";
import {
  type GenerateImageRequest,
  type GenerateImageResponse,
  ImageServiceClient,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import { ImageSpec } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { DrawingShape } from "./bare-process.ts";

const LAUNCHER = fileURLToPath(new URL("../../services/cli/bin/fluxline.mjs", import.meta.url));

interface ReadyEvent {
  readonly event: "ready";
  readonly address: string;
  readonly nats: string;
}

/** Requests that follow one another, so many at a time, until it is stopped. */
export interface Load {
  /** Resolves when what is under way has come. */
  stop(): Promise<void>;
}

export class ServedStack {
  readonly natsUrl: string;
  readonly #process: ChildProcess;
  readonly #client: ImageServiceClient;
  readonly #folder: string;
  #images = 0;

  private constructor(process_: ChildProcess, ready: ReadyEvent, folder: string) {
    this.natsUrl = ready.nats;
    this.#process = process_;
    this.#client = new ImageServiceClient(ready.address, credentials.createInsecure());
    this.#folder = folder;
  }

  get pid(): number {
    return this.#process.pid!;
  }

  /** `options` are those of `fluxline up`. */
  static async start(model: string, options: readonly string[]): Promise<ServedStack> {
    const folder = mkdtempSync(join(tmpdir(), "fluxline-bench-"));
    const place = ["--data", join(folder, "data"), "--port", "0", "--json"];
    const process_ = spawn(
      process.execPath,
      [LAUNCHER, "up", "--model", model, ...options, ...place],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    process.once("exit", () => process_.kill("SIGTERM"));
    const { promise, resolve, reject } = Promise.withResolvers<ReadyEvent>();
    // Read to the end: a pipe that nobody reads would hold up who writes.
    createInterface({ input: process_.stdout! })
      .on("line", (line) => {
        const event = JSON.parse(line) as ReadyEvent | { readonly event: "died" };
        if (event.event === "ready") resolve(event);
        if (event.event === "died") console.error(line);
      })
      .on("close", () => reject(new Error("fluxline up ended before it was ready")));
    return new ServedStack(process_, await promise, folder);
  }

  /** Generates pictures, each of its own prompt and seed, so many at a time; all must come. */
  async draw(shape: DrawingShape, images: number, atATime: number): Promise<void> {
    let left = images;
    const client = async (): Promise<void> => {
      while (left-- > 0) await this.#drawNext(shape);
    };
    await Promise.all(Array.from({ length: atATime }, client));
  }

  /** Draws pictures of the shapes that `next` names until it is stopped. */
  load(next: () => DrawingShape, atATime: number): Load {
    let stopped = false;
    const client = async (): Promise<void> => {
      while (!stopped) await this.#drawNext(next());
    };
    const all = Promise.all(Array.from({ length: atATime }, client));
    all.catch(() => undefined); // told where it is awaited
    return {
      stop: async () => {
        stopped = true;
        await all;
      },
    };
  }

  async #drawNext({ side, steps, textLength }: DrawingShape): Promise<void> {
    const image = this.#images++;
    const bytes = await this.generate({
      prompt: `a photo of cat ${image}`,
      width: side,
      height: side,
      numInferenceSteps: steps,
      maxSequenceLength: textLength,
      seed: BigInt(image),
    });
    if (bytes === 0) throw new Error(`picture ${image} has no bytes`);
  }

  /** Generates one picture; resolves to the number of its bytes when the last has come. */
  async generate(spec: Partial<ImageSpec>): Promise<number> {
    const request: GenerateImageRequest = {
      pool: "",
      requestId: "",
      spec: ImageSpec.fromPartial(spec),
    };
    let bytes = 0;
    const stream: AsyncIterable<GenerateImageResponse> = this.#client.generateImage(request);
    for await (const { event } of stream) {
      if (event?.$case === "imageChunk") bytes += event.value.chunk.length;
    }
    return bytes;
  }

  async stop(): Promise<void> {
    this.#client.close();
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill("SIGTERM");
    await ended;
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
