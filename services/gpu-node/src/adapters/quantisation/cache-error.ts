/** What can be wrong with the folder of quantised weights, with the way out. */
import { AppError } from "@fluxline/kernel/error.ts";

/** What was thrown; of what the file system says, an AppError. */
export function cacheError(thrown: unknown, file: string): unknown {
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
