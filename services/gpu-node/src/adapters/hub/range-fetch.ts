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

/** One connection; throws unless it brought all. */
async function fetchOnce(
  { client, writer, target, size, limits, signal }: RangeFetch,
  [begin, end]: ByteRange,
  advance: (bytes: number) => void,
): Promise<void> {
  const watch = new Watch(limits.stallMs, signal);
  let at = begin;
  let unsynced = 0;
  let syncedMs = performance.now();
  try {
    const { etag, body } = await client.openRange(target, [begin, end], size, watch);
    writer.accept(etag);
    for await (const part of body) {
      const bytes = part.subarray(0, end - at);
      await writer.write(bytes, at);
      at += bytes.length;
      unsynced += bytes.length;
      advance(bytes.length);
      if (at === end) return;
      const nowMs = performance.now();
      if (unsynced < limits.syncBytes && nowMs - syncedMs < limits.syncMs) continue;
      [unsynced, syncedMs] = [0, nowMs];
      await writer.commit();
    }
    throw cutShortError(target, at - begin, end - begin);
  } catch (thrown) {
    const failure = watch.failure(thrown, target);
    const isBroken = thrown instanceof TypeError && at > begin && !watch.isOver;
    throw isBroken ? cutShortError(target, at - begin, end - begin, thrown) : failure;
  } finally {
    watch.end();
  }
}
