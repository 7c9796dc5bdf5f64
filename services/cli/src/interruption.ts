/** Ctrl-C as an error that travels like any other, and is told apart by its reason. */
import { AppError } from "@fluxline/kernel/error.ts";

const reason = "INTERRUPTED";

export function interruption(): AppError {
  return new AppError("cancelled", "interrupted", { reason });
}

export function isInterruption(thrown: unknown): boolean {
  return thrown instanceof AppError && thrown.reason === reason;
}

/** `work`, unless the signal comes first; then it throws an interruption. */
export async function unlessInterrupted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(interruption());
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
