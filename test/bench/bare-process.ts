/** The bare loop in a process of its own, which waits between its turns. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const SCRIPT = fileURLToPath(new URL("bare-loop.ts", import.meta.url));

export interface DrawingShape {
  readonly side: number;
  readonly steps: number;
  readonly textLength: number;
}

export interface Turn {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

export class BareLoop {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  private constructor(process_: ChildProcess) {
    this.#process = process_;
    this.#lines = createInterface({ input: process_.stdout! })[Symbol.asyncIterator]();
    process.once("exit", () => process_.kill("SIGKILL"));
  }

  /** Resolves when its sessions are open. One thread; `batch` images in each step. */
  static async start(model: string, shape: DrawingShape, batch: number): Promise<BareLoop> {
    const { side, steps, textLength } = shape;
    const numbers = [side, side, steps, textLength, batch, 1].map(String);
    const loop = new BareLoop(
      spawn(process.execPath, [SCRIPT, model, ...numbers], {
        stdio: ["pipe", "pipe", "inherit"],
      }),
    );
    await loop.#line();
    return loop;
  }

  /** Draws one batch. */
  async draw(): Promise<Turn> {
    this.#process.stdin!.write("draw\n");
    return JSON.parse(await this.#line()) as Turn;
  }

  stop(): void {
    this.#process.kill("SIGKILL");
  }

  async #line(): Promise<string> {
    const { done, value } = await this.#lines.next();
    if (done === true) throw new Error("the bare loop ended");
    return value;
  }
}
