/** How much of what was asked for is there, over all files, told every now and then. */
export interface FetchProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export type OnProgress = (progress: FetchProgress) => void;

const TELL_MS = 200;

export class FetchTally {
  readonly #totalBytes: number;
  readonly #missing: Map<string, number>;
  readonly #onProgress: OnProgress | undefined;
  #toldMs = 0;

  /** `missing`: bytes by file. */
  constructor(missing: ReadonlyMap<string, number>, onProgress: OnProgress | undefined) {
    this.#missing = new Map(missing);
    this.#totalBytes = this.missingBytes;
    this.#onProgress = onProgress;
  }

  get missingBytes(): number {
    return [...this.#missing.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  came(file: string, bytes: number): void {
    this.set(file, (this.#missing.get(file) ?? 0) - bytes);
  }

  /** Gaps that are fetched along make more come than was missing. */
  set(file: string, missing: number): void {
    this.#missing.set(file, Math.max(0, missing));
    const nowMs = performance.now();
    if (nowMs - this.#toldMs < TELL_MS) return;
    this.#toldMs = nowMs;
    this.tell();
  }

  tell(): void {
    const totalBytes = this.#totalBytes;
    this.#onProgress?.({ doneBytes: totalBytes - this.missingBytes, totalBytes });
  }
}
