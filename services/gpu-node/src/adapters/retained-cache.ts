/**
 * Tensors that stay on the device between calls: text encodings by text, position tables by shape.
 * What a resident request uses is held; what nobody uses stays until its memory is wanted, the
 * least recently used first. So an equal prompt is encoded once.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import type { NamedTensors } from "../core/tensor.ts";
import type { DeviceRunner } from "./runner/device-runner.ts";

/** For what nobody holds; what residents hold is bounded by their number. */
export interface RetainedLimits {
  readonly idleBytesMax: number;
  readonly idleKeysMax: number;
}

interface Entry {
  readonly bytes: number;
  readonly names: readonly string[];
  holders: number;
}

export class RetainedCache {
  readonly #runner: Pick<DeviceRunner, "retain" | "release">;
  readonly #limits: RetainedLimits;
  /** In order of last use. */
  readonly #entries = new Map<string, Entry>();

  constructor(runner: Pick<DeviceRunner, "retain" | "release">, limits: RetainedLimits) {
    this.#runner = runner;
    this.#limits = limits;
  }

  /** Holds the tensors under `key`, making them if they are not there; returns their names. */
  async hold(
    key: string,
    make: () => NamedTensors | Promise<NamedTensors>,
  ): Promise<readonly string[]> {
    if (!this.#entries.has(key)) {
      const tensors = await make();
      this.#runner.retain(key, tensors);
      const bytes = Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0);
      const holders = this.#entries.get(key)?.holders ?? 0;
      this.#entries.set(key, { bytes, names: Object.keys(tensors), holders });
    }
    const entry = this.#use(key);
    entry.holders += 1;
    return entry.names;
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
      this.#runner.release(key);
    }
  }
}
