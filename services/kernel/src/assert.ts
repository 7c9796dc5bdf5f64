/**
 * Assertions for programmer errors: states that cannot be reached unless our own code is wrong.
 * They stay on in production, because a wrong state that goes on is worse than a restart.
 * What a user or the network can cause is an `AppError` instead.
 */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws `AssertionError` unless `condition` holds. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Marks the branch that an exhaustive switch never takes; the compiler proves it. */
export function unreachable(value: never, what = "value"): never {
  throw new AssertionError(`unexpected ${what}: ${JSON.stringify(value)}`);
}
