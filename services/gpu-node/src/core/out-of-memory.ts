/**
 * What a request is told whose own work the device had no memory for: what was being done, the
 * numbers that are known, and the way out. The runtime's own words say only how many bytes it
 * could not have.
 */
import type { ErrorRecord } from "@fluxline/kernel/error.ts";
import type { ImageRequest } from "@fluxline/kernel/image-request.ts";
import { rowsOfImage } from "@fluxline/kernel/memory-fit.ts";
import type { Task } from "./step-batcher.ts";

/** The reason by which a failed call says that the device lacked memory. */
export const OUT_OF_MEMORY = "DEVICE_OUT_OF_MEMORY";

type Facts = Pick<
  ImageRequest,
  "width" | "height" | "maxSequenceLength" | "trueCfgScale" | "negativePrompt"
>;

export function outOfMemoryError(
  error: ErrorRecord,
  kind: Task["kind"],
  request: Facts,
): ErrorRecord {
  const { width, height, maxSequenceLength } = request;
  const rows = kind === "step" ? rowsOfImage(request) : 1;
  const size = `${width} x ${height}`;
  const { what, wayOut } = {
    encode: {
      what: `the encoding of ${maxSequenceLength} text tokens`,
      wayOut: "use a smaller max_sequence_length",
    },
    probe: { what: "the decode on which previews rest", wayOut: "ask for no previews" },
    step: {
      what: `a step of ${rows === 1 ? "one row" : "two rows"} of ${size} with ${maxSequenceLength} text tokens`,
      wayOut: `use a smaller size${rows === 1 ? "" : ", or leave true_cfg_scale out"}`,
    },
    decode: {
      what: `the decode of a picture of ${size}`,
      wayOut: "use a smaller size, or start the group with a smaller --decode-tile",
    },
  }[kind];
  return {
    ...error,
    message: `the device has no memory for ${what} (${error.message}); ${wayOut}, or use another group`,
    details: {
      ...error.details,
      width: String(width),
      height: String(height),
      max_sequence_length: String(maxSequenceLength),
      rows: String(rows),
    },
  };
}
