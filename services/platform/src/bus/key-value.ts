/**
 * Key-value buckets with the outcomes that matter spelled out: a write is written, lost to someone
 * else, refused, or unknown. Reads go to the stream's leader (`allow_direct` is off), so they are
 * never stale. A watch starts again by itself where it stopped; nats.js would notice a lost
 * consumer only after two missed heartbeats (10 s or more), and a wiped bucket never.
 */
import { DeliverPolicy } from "@nats-io/jetstream";
import { Kvm, type KV } from "@nats-io/kv";
import type { AppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "./connection.ts";
import { isAnswer, isConflict, storeError } from "./store-error.ts";

export interface Stored {
  readonly value: Uint8Array;
  readonly revision: number;
}

export type WriteOutcome =
  | { readonly kind: "written"; readonly revision: number }
  /** Somebody else wrote first: read again and decide anew. */
  | { readonly kind: "conflict" }
  /** The server said no (full, too large): certainly not written. */
  | { readonly kind: "refused"; readonly error: AppError }
  /** No answer: it may have been written. Read to find out. */
  | { readonly kind: "unknown"; readonly error: AppError };

export type WatchEvent =
  | { readonly kind: "put"; readonly key: string; readonly stored: Stored }
  | { readonly kind: "removed"; readonly key: string; readonly revision: number }
  /** All that was there when the watch (re)started has been told. */
  | { readonly kind: "synced" }
  /** The bucket was made anew: forget everything told before. */
  | { readonly kind: "reset" }
  /** Nothing is heard for now; the watch goes on by itself. */
  | { readonly kind: "interrupted"; readonly error: AppError };

const retryDelayMs = 500;

export class KeyValue {
  readonly bucket: string;
  readonly #bus: Bus;
  readonly #kv: KV;

  constructor(bus: Bus, bucket: string, kv: KV) {
    this.#bus = bus;
    this.bucket = bucket;
    this.#kv = kv;
  }

  /** The value, or undefined if there is none (deleted counts as none). */
  async get(key: string): Promise<Stored | undefined> {
    try {
      const entry = await this.#kv.get(key);
      if (entry === null || entry.operation !== "PUT") return undefined;
      return { value: entry.value, revision: entry.revision };
    } catch (thrown) {
      throw storeError(this.bucket, thrown);
    }
  }

  /**
   * Writes a key that has no value. A deleted key counts as without value. Not by the library's
   * `create`: that one reads after any failure, and a read that is refused would hide that the
   * write before it may have been done.
   */
  async create(key: string, value: Uint8Array): Promise<WriteOutcome> {
    const first = await this.#write(() => this.#kv.put(key, value, { previousSeq: 0 }), value);
    if (first.kind !== "conflict") return first;
    try {
      const entry = await this.#kv.get(key);
      if (entry === null || entry.operation === "PUT") return first;
      const { revision } = entry;
      return await this.#write(() => this.#kv.put(key, value, { previousSeq: revision }), value);
    } catch (thrown) {
      return { kind: "unknown", error: storeError(this.bucket, thrown) };
    }
  }

  /** Writes if `revision` is still the last one. */
  update(key: string, value: Uint8Array, revision: number): Promise<WriteOutcome> {
    return this.#write(() => this.#kv.update(key, value, revision), value);
  }

  /** Removes the value, leaving a marker that watchers see; only if `revision` is still the last. */
  remove(key: string, revision: number): Promise<WriteOutcome> {
    return this.#write(async () => {
      await this.#kv.purge(key, { previousSeq: revision });
      return revision;
    }, new Uint8Array());
  }

  /**
   * Erases a key's values and markers up to and with `revision`; what was written after it stays.
   * Watchers are not told: `remove` first.
   */
  async erase(key: string, revision: number): Promise<void> {
    try {
      await this.#bus.jetStreamManager.streams.purge(`KV_${this.bucket}`, {
        filter: `$KV.${this.bucket}.${key}`,
        seq: revision + 1,
      });
    } catch (thrown) {
      throw storeError(this.bucket, thrown);
    }
  }

  /**
   * Calls `onEvent` for each key's last value, then for each change, in order of their revisions.
   * `filter` is a key with `*` and `>` as wildcards.
   */
  watch(filter: string, onEvent: (event: WatchEvent) => void): KeyValueWatch {
    return new KeyValueWatch(this.#bus, this.bucket, filter, onEvent);
  }

  async #write(write: () => Promise<number>, value: Uint8Array): Promise<WriteOutcome> {
    this.#bus.requireFits(`bucket ${this.bucket}`, value);
    try {
      return { kind: "written", revision: await write() };
    } catch (thrown) {
      if (isConflict(thrown)) return { kind: "conflict" };
      const error = storeError(this.bucket, thrown);
      return { kind: isAnswer(thrown) ? "refused" : "unknown", error };
    }
  }
}

/** Opens a declared bucket; whether it exists shows at the first use. */
export async function openKeyValue(bus: Bus, bucket: { name: string }): Promise<KeyValue> {
  const kv = await new Kvm(bus.jetStream).open(bucket.name, { allow_direct: false });
  return new KeyValue(bus, bucket.name, kv);
}

export class KeyValueWatch {
  readonly #bus: Bus;
  readonly #bucket: string;
  readonly #filter: string;
  readonly #onEvent: (event: WatchEvent) => void;
  readonly #done: Promise<void>;
  #stopped = false;
  #lastRevision = 0;
  #endSession: () => void = () => {};

  constructor(bus: Bus, bucket: string, filter: string, onEvent: (event: WatchEvent) => void) {
    this.#bus = bus;
    this.#bucket = bucket;
    this.#filter = filter;
    this.#onEvent = onEvent;
    this.#done = this.#run();
  }

  /** Ends the watch; no event is told after it resolves. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#endSession();
    await this.#done;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#session();
      } catch (thrown) {
        if (this.#stopped) return;
        this.#onEvent({ kind: "interrupted", error: storeError(this.#bucket, thrown) });
        await new Promise((resolve) => setTimeout(resolve, retryDelayMs));
      }
    }
  }

  /** One consumer, until the connection was renewed, the consumer ended or the watch stops. */
  async #session(): Promise<void> {
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    this.#endSession = end;
    const unfollow = this.#bus.onStatus((status) => {
      if (status.kind === "reconnected" || status.kind === "closed") end();
    });
    try {
      await this.#noticeWipe();
      if (this.#stopped) return;
      const consumer = await this.#bus.jetStream.consumers.getPushConsumer(`KV_${this.#bucket}`, {
        filter_subjects: `$KV.${this.#bucket}.${this.#filter}`,
        ...(this.#lastRevision === 0
          ? { deliver_policy: DeliverPolicy.LastPerSubject }
          : { opt_start_seq: this.#lastRevision + 1 }),
      });
      let synced = (await consumer.info(true)).num_pending === 0;
      if (synced) this.#onEvent({ kind: "synced" });
      const messages = await consumer.consume({
        callback: (message) => {
          if (this.#stopped) return;
          loudly(() => {
            this.#tell(message.subject, message.seq, message.data, message.headers);
            if (!synced && message.info.pending === 0) {
              synced = true;
              this.#onEvent({ kind: "synced" });
            }
          });
        },
      });
      void messages.closed().then(() => end(), end);
      await ended;
      messages.stop();
    } finally {
      unfollow();
    }
  }

  #tell(
    subject: string,
    revision: number,
    value: Uint8Array,
    headers: { get(name: string): string } | undefined,
  ): void {
    // A consumer that was made anew may tell the last message twice.
    if (revision <= this.#lastRevision) return;
    this.#lastRevision = revision;
    const key = subject.slice(`$KV.${this.#bucket}.`.length);
    const removed = Boolean(headers?.get("KV-Operation") || headers?.get("Nats-Marker-Reason"));
    if (removed) this.#onEvent({ kind: "removed", key, revision });
    else this.#onEvent({ kind: "put", key, stored: { value, revision } });
  }

  async #noticeWipe(): Promise<void> {
    if (this.#lastRevision === 0) return;
    const info = await this.#bus.jetStreamManager.streams.info(`KV_${this.#bucket}`);
    if (info.state.last_seq >= this.#lastRevision) return;
    this.#lastRevision = 0;
    this.#onEvent({ kind: "reset" });
  }
}

/** nats.js would end the consumer without a word, and the event would be lost: end the process. */
function loudly(handle: () => void): void {
  try {
    handle();
  } catch (thrown) {
    setImmediate(() => {
      throw thrown;
    });
  }
}
