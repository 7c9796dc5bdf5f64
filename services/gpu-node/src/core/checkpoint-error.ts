/**
 * What is wrong with a model folder. Every such error names the file (and the key or the tensor),
 * the value found, and the way out, so that whoever mounted the folder can act on it.
 */
import { AppError } from "@fluxline/kernel/error.ts";

/** `place` is a file, or a file with a key or tensor: `transformer/config.json: num_layers`. */
export function checkpointError(place: string, description: string, cause?: unknown): AppError {
  return new AppError("failed_precondition", `${place}: ${description}`, {
    reason: "CHECKPOINT_INVALID",
    violations: [{ field: place, description }],
    cause,
  });
}

/** A file that should be there and is not; `wayOut` says where it comes from. */
export function missingFileError(file: string, wayOut: string, cause?: unknown): AppError {
  const description = `the file does not exist; ${wayOut}`;
  return new AppError("not_found", `${file}: ${description}`, {
    reason: "CHECKPOINT_FILE_MISSING",
    violations: [{ field: file, description }],
    cause,
  });
}

/** A value as it stands in a message: short, and on one line. */
export function shown(value: unknown): string {
  const text = value === undefined ? "nothing" : (JSON.stringify(value) ?? String(value));
  return text.length <= 120 ? text : `${text.slice(0, 117)}...`;
}
