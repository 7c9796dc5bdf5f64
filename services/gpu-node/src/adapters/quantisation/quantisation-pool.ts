/** A bounded number of worker threads that check and make quantised files. */
import { Worker } from "node:worker_threads";
import { assert } from "@fluxline/kernel/assert.ts";
import { fromErrorRecord } from "@fluxline/kernel/error.ts";
import type { QuantisedFile } from "../../core/quantised-file.ts";
import type { QuantisationAnswer, QuantisationJob } from "./quantisation-worker.ts";
import type { Soundness } from "./quantised-writer.ts";

const WORKER = new URL("./quantisation-worker.ts", import.meta.url);

interface Waiting {
  readonly job: QuantisationJob;
  readonly resolve: (answer: QuantisationAnswer) => void;
  readonly reject: (thrown: unknown) => void;
}

export class QuantisationPool {
  readonly #workers: readonly Worker[];
  readonly #idle: Worker[];
  readonly #busy = new Map<Worker, Waiting>();
  /** At most as long as there are files: each asks for one thing at a time. */
  readonly #queue: Waiting[] = [];

  constructor(threads: number) {
    this.#workers = Array.from({ length: threads }, () => this.#start());
    this.#idle = [...this.#workers];
  }

  async check(file: QuantisedFile): Promise<Soundness> {
    const answer = await this.#ask({ kind: "check", file });
    assert(answer.kind === "checked", `the answer to a check is ${answer.kind}`);
    return answer.soundness;
  }

  async write(file: QuantisedFile, draft: string): Promise<void> {
    await this.#ask({ kind: "write", file, draft });
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #ask(job: QuantisationJob): Promise<Exclude<QuantisationAnswer, { kind: "failed" }>> {
    const { promise, resolve, reject } = Promise.withResolvers<QuantisationAnswer>();
    this.#queue.push({ job, resolve, reject });
    this.#next();
    return promise.then((answer) => {
      if (answer.kind === "failed") throw fromErrorRecord(answer.error);
      return answer;
    });
  }

  #next(): void {
    while (this.#idle.length > 0 && this.#queue.length > 0) {
      const worker = this.#idle.pop()!;
      const waiting = this.#queue.shift()!;
      this.#busy.set(worker, waiting);
      worker.postMessage(waiting.job);
    }
  }

  #start(): Worker {
    const worker = new Worker(WORKER);
    worker.on("message", (answer: QuantisationAnswer) => {
      const waiting = this.#busy.get(worker);
      assert(waiting !== undefined, "a worker answered what nobody asked");
      this.#busy.delete(worker);
      this.#idle.push(worker);
      waiting.resolve(answer);
      this.#next();
    });
    // One that fails is not used again: what it did is given up, and with it the preparation.
    worker.on("error", (thrown) => this.#busy.get(worker)?.reject(thrown));
    return worker;
  }
}
