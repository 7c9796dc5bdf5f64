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

const LAUNCHER = fileURLToPath(new URL("../../services/cli/bin/fluxline.mjs", import.meta.url));

export class ServedStack {
  readonly #process: ChildProcess;
  readonly #client: ImageServiceClient;
  readonly #folder: string;

  private constructor(process_: ChildProcess, address: string, folder: string) {
    this.#process = process_;
    this.#client = new ImageServiceClient(address, credentials.createInsecure());
    this.#folder = folder;
  }

  get pid(): number {
    return this.#process.pid!;
  }

  static async start(model: string, threads: number): Promise<ServedStack> {
    const folder = mkdtempSync(join(tmpdir(), "fluxline-bench-"));
    const options = [
      "--model",
      model,
      "--threads",
      String(threads),
      "--data",
      join(folder, "data"),
    ];
    const process_ = spawn(
      process.execPath,
      [LAUNCHER, "up", ...options, "--port", "0", "--json"],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    for await (const line of createInterface({ input: process_.stdout! })) {
      const event = JSON.parse(line) as { event: string; address?: string };
      if (event.event === "ready") return new ServedStack(process_, event.address!, folder);
    }
    throw new Error("fluxline up ended before it was ready");
  }

  /** Generates one picture; resolves to its bytes when the last has come. */
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
