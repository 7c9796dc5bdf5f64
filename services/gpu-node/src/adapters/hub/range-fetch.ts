/**
 * Brings some bytes of a file from the hub into the cache, whatever befalls the connection: what came
 * is kept, and the rest is asked for again, until tries in a row brought nothing.
 */
import { toAppError } from "@fluxline/kernel/error.ts";
import type { ByteRange } from "../../core/hub/byte-ranges.ts";
import { cutShortError, type HubTarget } from "../../core/hub/hub-error.ts";
import { type HubClient, restOrGiveUp, Watch } from "./hub-client.ts";
import type { FetchLimits } from "./hub-settings.ts";
import type { WeightWriter } from "./weight-file.ts";

/** Bodies come in small parts; so many bytes of them are written at once. */
const WRITE_BYTES = 2 ** 20;

export interface RangeFetch {
  readonly client: HubClient;
  readonly writer: WeightWriter;
  readonly target: HubTarget;
  /** Of the whole file. */
  readonly size: number;
  readonly limits: FetchLimits;
  readonly signal: AbortSignal;
  readonly onBytes: (bytes: number) => void;
}

export async function fetchRange(fetch: RangeFetch, [begin, end]: ByteRange): Promise<void> {
  const { writer, signal } = fetch;
  let at = begin;
  for (let failures = 0; at < end;) {
    const before = at;
    const advance = (bytes: number): void => {
      at += bytes;
      fetch.onBytes(bytes);
    };
    try {
      await fetchOnce(fetch, [at, end], advance);
    } catch (thrown) {
      // Whatever it was: what came is kept.
      await writer.commit();
      if (signal.aborted) throw signal.reason;
      const error = toAppError(thrown);
      failures = at > before ? 1 : failures + 1;
      await restOrGiveUp(error, failures, fetch.limits.retries, signal);
    }
  }
  await writer.commit();
}

/** One connection; throws unless it brought all. What came is written either way. */
async function fetchOnce(
  { client, writer, target, size, limits, signal }: RangeFetch,
  [begin, end]: ByteRange,
  advance: (bytes: number) => void,
): Promise<void> {
  const watch = new Watch(limits.stallMs, signal);
  const stretch = new Stretch(writer, begin, advance);
  let unsynced = 0;
  let syncedMs = performance.now();
  try {
    const { etag, body } = await client.openRange(target, [begin, end], size, watch);
    writer.accept(etag);
    for await (const part of body) {
      const bytes = part.subarray(0, end - stretch.end);
      stretch.add(bytes);
      unsynced += bytes.length;
      const isAll = stretch.end === end;
      const nowMs = performance.now();
      const isDue = unsynced >= limits.syncBytes || nowMs - syncedMs >= limits.syncMs;
      if (isAll || isDue || stretch.heldBytes >= WRITE_BYTES) await stretch.flush();
      if (isAll) return;
      if (!isDue) continue;
      [unsynced, syncedMs] = [0, nowMs];
      await writer.commit();
    }
    throw cutShortError(target, stretch.end - begin, end - begin);
  } catch (thrown) {
    await stretch.flush();
    const failure = watch.failure(thrown, target);
    const isBroken = thrown instanceof TypeError && stretch.end > begin && !watch.isOver;
    throw isBroken ? cutShortError(target, stretch.end - begin, end - begin, thrown) : failure;
  } finally {
    watch.end();
  }
}

/** Parts of a body, gathered to writes that are worth their cost. */
class Stretch {
  readonly #writer: WeightWriter;
  readonly #advance: (bytes: number) => void;
  #position: number;
  #parts: Uint8Array[] = [];
  heldBytes = 0;

  constructor(writer: WeightWriter, begin: number, advance: (bytes: number) => void) {
    this.#writer = writer;
    this.#advance = advance;
    this.#position = begin;
  }

  /** Where the next part belongs. */
  get end(): number {
    return this.#position + this.heldBytes;
  }

  add(part: Uint8Array): void {
    this.#parts.push(part);
    this.heldBytes += part.length;
  }

  async flush(): Promise<void> {
    const [parts, bytes, position] = [this.#parts, this.heldBytes, this.#position];
    if (bytes === 0) return;
    [this.#parts, this.heldBytes, this.#position] = [[], 0, position + bytes];
    await this.#writer.write(parts, position);
    this.#advance(bytes);
  }
}
