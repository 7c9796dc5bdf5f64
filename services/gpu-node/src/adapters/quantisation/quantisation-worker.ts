/** A worker thread that checks and makes quantised files, one after another. It loads no runtime. */
import { parentPort } from "node:worker_threads";
import { assert } from "@fluxline/kernel/assert.ts";
import { type ErrorRecord, toErrorRecord } from "@fluxline/kernel/error.ts";
import type { QuantisedFile } from "../../core/quantised-file.ts";
import { cacheError } from "./cache-error.ts";
import { checkQuantisedFile, type Soundness, writeQuantisedFile } from "./quantised-writer.ts";

export type QuantisationJob =
  | { readonly kind: "check"; readonly file: QuantisedFile }
  | { readonly kind: "write"; readonly file: QuantisedFile; readonly draft: string };

export type QuantisationAnswer =
  | { readonly kind: "checked"; readonly soundness: Soundness }
  | { readonly kind: "written" }
  | { readonly kind: "failed"; readonly error: ErrorRecord };

function perform(job: QuantisationJob): QuantisationAnswer {
  try {
    if (job.kind === "check") return { kind: "checked", soundness: checkQuantisedFile(job.file) };
    writeQuantisedFile(job.file, job.draft);
    return { kind: "written" };
  } catch (thrown) {
    return { kind: "failed", error: toErrorRecord(cacheError(thrown, job.file.file)) };
  }
}

assert(parentPort !== null, "this file runs as a worker thread");
const port = parentPort;
port.on("message", (job: QuantisationJob) => port.postMessage(perform(job)));
