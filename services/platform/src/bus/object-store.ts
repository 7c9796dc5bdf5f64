/**
 * Immutable objects under a key that is used once. nats.js replaces an object that has the name
 * already, without a word; here the second put of the same bytes changes nothing and of other
 * bytes is refused. Reads end with an error when chunks do not come, where nats.js would wait
 * for ever.
 */
import { createHash } from "node:crypto";
import { Objm, type ObjectInfo, type ObjectStore } from "@nats-io/obj";
import { AppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "./connection.ts";
import { isConflict, storeError } from "./store-error.ts";
import type { ObjectStoreDeclaration } from "./topology.ts";

export interface PutObject {
  readonly sizeBytes: number;
  /** Hex. */
  readonly sha256: string;
}

export interface OpenObject {
  readonly sizeBytes: number;
  readonly chunks: AsyncIterable<Uint8Array>;
}

export interface ListedObject {
  readonly key: string;
  readonly sizeBytes: number;
  readonly modifiedMs: number;
}

/** Small enough for a server with the default limit of 1 MiB. */
const chunkBytes = 256 * 1024;
const chunkTimeoutMs = 10_000;

export class Objects {
  readonly store: ObjectStoreDeclaration;
  readonly #bus: Bus;
  readonly #objects: ObjectStore;

  constructor(bus: Bus, store: ObjectStoreDeclaration, objects: ObjectStore) {
    this.#bus = bus;
    this.store = store;
    this.#objects = objects;
  }

  /** Stores bytes under a key for good. Throws ALREADY_EXISTS if other bytes are there. */
  async put(key: string, bytes: Uint8Array): Promise<PutObject> {
    if (bytes.length > this.store.objectBytesMax) throw tooLargeError(this.store, key, bytes);
    const digest = createHash("sha256").update(bytes).digest();
    const stored = { sizeBytes: bytes.length, sha256: digest.toString("hex") };
    try {
      const present = await this.#bus.untilBroken(this.#objects.info(key));
      if (present && !present.deleted) return requireSame(this.store, present, digest, stored);
      const put = this.#objects.putBlob(
        { name: key, options: { max_chunk_size: Math.min(chunkBytes, this.#chunkLimit()) } },
        bytes,
        { previousRevision: present?.revision ?? 0 },
      );
      await this.#bus.untilBroken(put);
      return stored;
    } catch (thrown) {
      if (!isConflict(thrown)) throw storeError(this.store.name, thrown);
    }
    // Another put of this key ended between our look and our put.
    const present = await this.#info(key);
    if (present) return requireSame(this.store, present, digest, stored);
    throw new AppError("aborted", `object ${key} was written and deleted while it was put`, {
      reason: "OBJECT_RACE",
      retryable: true,
    });
  }

  /** The object as a stream, or undefined if there is none. The digest is checked at the end. */
  async get(key: string): Promise<OpenObject | undefined> {
    try {
      const result = await this.#objects.get(key);
      if (result === null) return undefined;
      // The same failure ends the stream; unheard here, it would end the process.
      result.error.catch(() => {});
      return { sizeBytes: result.info.size, chunks: this.#read(key, result.data) };
    } catch (thrown) {
      throw storeError(this.store.name, thrown);
    }
  }

  /** The whole object, or undefined if there is none. */
  async getBytes(key: string): Promise<Uint8Array | undefined> {
    const object = await this.get(key);
    if (!object) return undefined;
    const bytes = new Uint8Array(object.sizeBytes);
    let filled = 0;
    for await (const chunk of object.chunks) {
      bytes.set(chunk, filled);
      filled += chunk.length;
    }
    return bytes;
  }

  /** Erases the object and its description. Deleting what is not there is fine. */
  async delete(key: string): Promise<void> {
    try {
      const present = await this.#objects.info(key);
      if (!present) return;
      const purge = (filter: string) =>
        this.#bus.jetStreamManager.streams.purge(`OBJ_${this.store.name}`, { filter });
      // The description first: what has no description is not an object.
      await purge(`$O.${this.store.name}.M.${encodeName(key)}`);
      await purge(`$O.${this.store.name}.C.${present.nuid}`);
    } catch (thrown) {
      throw storeError(this.store.name, thrown);
    }
  }

  /** Every object there is. Reads all descriptions: for sweeps, not for requests. */
  async list(): Promise<ListedObject[]> {
    try {
      const infos = await this.#objects.list();
      return infos.map((info) => ({
        key: info.name,
        sizeBytes: info.size,
        modifiedMs: Date.parse(info.mtime),
      }));
    } catch (thrown) {
      throw storeError(this.store.name, thrown);
    }
  }

  #chunkLimit(): number {
    return this.#bus.payloadBytesMax || chunkBytes;
  }

  async #info(key: string): Promise<ObjectInfo | undefined> {
    try {
      const info = await this.#objects.info(key);
      return info && !info.deleted ? info : undefined;
    } catch (thrown) {
      throw storeError(this.store.name, thrown);
    }
  }

  async *#read(key: string, stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
    const reader = stream.getReader();
    try {
      for (;;) {
        const { done, value } = await within(reader.read(), chunkTimeoutMs, key);
        if (done) return;
        yield value;
      }
    } catch (thrown) {
      throw storeError(this.store.name, thrown);
    } finally {
      await reader.cancel().catch(() => {});
    }
  }
}

/** Opens a declared object store; throws STORE_MISSING when nobody made it yet. */
export async function openObjects(bus: Bus, store: ObjectStoreDeclaration): Promise<Objects> {
  try {
    // Asked first, because it says by code that the store is missing; Objm only says so in words.
    await bus.jetStreamManager.streams.info(`OBJ_${store.name}`);
    return new Objects(bus, store, await new Objm(bus.jetStream).open(store.name));
  } catch (thrown) {
    throw storeError(store.name, thrown);
  }
}

/** Object names stand in subjects as padded base64url. */
function encodeName(key: string): string {
  const text = Buffer.from(key, "utf8").toString("base64url");
  return text.padEnd(Math.ceil(text.length / 4) * 4, "=");
}

async function within<T>(work: Promise<T>, timeoutMs: number, key: string): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    const message = `object ${key}: no data for ${timeoutMs / 1000} s`;
    reject(new AppError("unavailable", message, { reason: "OBJECT_STALLED" }));
  }, timeoutMs);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

function requireSame(
  store: ObjectStoreDeclaration,
  present: ObjectInfo,
  digest: Buffer,
  stored: PutObject,
): PutObject {
  const [, text = ""] = present.digest.split("=", 2);
  if (Buffer.from(text, "base64url").equals(digest)) return stored;
  throw new AppError(
    "already_exists",
    `object ${present.name} is in store "${store.name}" with other bytes: keys are used once`,
    { reason: "OBJECT_EXISTS" },
  );
}

function tooLargeError(store: ObjectStoreDeclaration, key: string, bytes: Uint8Array): AppError {
  return new AppError(
    "invalid_argument",
    `object ${key} has ${bytes.length} bytes; store "${store.name}" takes ${store.objectBytesMax}`,
    { reason: "OBJECT_TOO_LARGE" },
  );
}
