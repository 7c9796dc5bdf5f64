/**
 * Which models that waiting jobs ask for nobody serves any more. A job is drawn by the model that
 * it was admitted for, or by none; a group that is only starting anew is waited for.
 */
import { MODEL_GONE_MS } from "./limits.ts";

export class ModelAbsence {
  readonly #sinceMs = new Map<string, number>();

  /** The models of `wanted` that no group has served for long enough. */
  gone(
    wanted: ReadonlySet<string>,
    isServed: (digest: string) => boolean,
    nowMs: number,
  ): ReadonlySet<string> {
    const gone = new Set<string>();
    for (const digest of this.#sinceMs.keys()) {
      if (!wanted.has(digest)) this.#sinceMs.delete(digest);
    }
    for (const digest of wanted) {
      if (isServed(digest)) this.#sinceMs.delete(digest);
      else {
        const sinceMs = this.#sinceMs.get(digest) ?? nowMs;
        this.#sinceMs.set(digest, sinceMs);
        if (nowMs - sinceMs >= MODEL_GONE_MS) gone.add(digest);
      }
    }
    return gone;
  }
}
