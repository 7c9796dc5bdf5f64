/** A worker thread that checks and makes quantised files, one after another. It loads no runtime. */
import { parentPort } from "node:worker_threads";
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, type ErrorRecord, toErrorRecord } from "@fluxline/kernel/error.ts";
import type { QuantisedFile } from "../../core/quantised-file.ts";
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
    return { kind: "failed", error: toErrorRecord(explained(thrown, job.file.file)) };
  }
}

/** What the file system says, with the way out. */
function explained(thrown: unknown, file: string): unknown {
  const { code, message } = thrown as NodeJS.ErrnoException;
  if (thrown instanceof AppError || code === undefined) return thrown;
  const wayOut = "name another folder with FLUXLINE_CACHE";
  if (code === "ENOSPC" || code === "EDQUOT") {
    const why = `${file}: no space is left for weights in int8; make room, or ${wayOut}`;
    return new AppError("resource_exhausted", why, { reason: "CACHE_DISK_FULL", cause: thrown });
  }
  const why = `${file}: ${message}; ${wayOut}`;
  return new AppError("failed_precondition", why, { reason: "CACHE_NOT_USABLE", cause: thrown });
}

assert(parentPort !== null, "this file runs as a worker thread");
const port = parentPort;
port.on("message", (job: QuantisationJob) => port.postMessage(perform(job)));
