/**
 * Tensors that stay on devices between calls: text encodings by text, position tables by shape.
 * Each counts once, however many devices keep it. What a resident request uses is held; what nobody
 * uses stays until its memory is wanted, the least recently used first. So an equal prompt is
 * encoded once.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { NamedTensors } from "../core/tensor.ts";

/** For what nobody holds; what residents hold is bounded by their number. */
export interface RetainedLimits {
  readonly idleBytesMax: number;
  readonly idleKeysMax: number;
}

/** Where tensors are retained; `adapters/group-devices.ts` in earnest. */
export interface RetainingDevices {
  retain(key: string, tensors: NamedTensors): void;
  release(key: string): void;
}

interface Entry {
  readonly bytes: number;
  readonly names: readonly string[];
  holders: number;
}

export class RetainedCache {
  readonly #devices: RetainingDevices;
  readonly #limits: RetainedLimits;
  /** In order of last use. */
  readonly #entries = new Map<string, Entry>();

  constructor(devices: RetainingDevices, limits: RetainedLimits) {
    this.#devices = devices;
    this.#limits = limits;
  }

  /** Holds the tensors under `key`, making them if they are not there; returns their names. */
  async hold(
    key: string,
    make: () => NamedTensors | Promise<NamedTensors>,
  ): Promise<readonly string[]> {
    if (!this.#entries.has(key)) {
      const tensors = await make();
      this.#devices.retain(key, tensors);
      const bytes = Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0);
      const holders = this.#entries.get(key)?.holders ?? 0;
      this.#entries.set(key, { bytes, names: Object.keys(tensors), holders });
    }
    const entry = this.#use(key);
    entry.holders += 1;
    return entry.names;
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  letGo(key: string): void {
    const entry = this.#use(key);
    entry.holders -= 1;
    assert(entry.holders >= 0, `${key} was let go more often than it was held`);
    this.#evict();
  }

  #use(key: string): Entry {
    const entry = this.#entries.get(key);
    assert(entry !== undefined, `${key} is not retained`);
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry;
  }

  #evict(): void {
    const idle = [...this.#entries].filter(([, entry]) => entry.holders === 0);
    let bytes = idle.reduce((sum, [, entry]) => sum + entry.bytes, 0);
    let keys = idle.length;
    for (const [key, entry] of idle) {
      if (bytes <= this.#limits.idleBytesMax && keys <= this.#limits.idleKeysMax) return;
      bytes -= entry.bytes;
      keys -= 1;
      this.#entries.delete(key);
      this.#devices.release(key);
    }
  }
}
