/**
 * The newest preview of each image that runs, for who begins to watch late, and each new one for
 * who watches now. Nothing here is durable, and nothing waits: when there are too many bytes, the
 * previews of the job that has been without a new one for longest are let go.
 */
import type { Preview } from "@fluxline/proto/fluxline/v1/image_job.ts";

const bytesMaxDefault = 64 * 1024 * 1024;

export type OnPreview = (preview: Preview) => void;

export class PreviewBoard {
  readonly #bytesMax: number;
  /** By job, the one with the newest preview last; then by image. */
  readonly #newest = new Map<string, Map<number, Preview>>();
  readonly #followers = new Map<string, Set<OnPreview>>();
  #bytes = 0;

  constructor(bytesMax = bytesMaxDefault) {
    this.#bytesMax = bytesMax;
  }

  put(key: string, preview: Preview): void {
    const images = this.#newest.get(key) ?? new Map<number, Preview>();
    this.#bytes += preview.content.length - (images.get(preview.index)?.content.length ?? 0);
    images.set(preview.index, preview);
    this.#newest.delete(key);
    this.#newest.set(key, images);
    for (const oldest of this.#newest.keys()) {
      if (this.#bytes <= this.#bytesMax) break;
      this.forget(oldest);
    }
    for (const onPreview of this.#followers.get(key) ?? []) onPreview(preview);
  }

  /** The newest preview of each image, in order of the images. */
  newest(key: string): readonly Preview[] {
    return [...(this.#newest.get(key)?.values() ?? [])].sort((a, b) => a.index - b.index);
  }

  forget(key: string): void {
    for (const { content } of this.#newest.get(key)?.values() ?? []) this.#bytes -= content.length;
    this.#newest.delete(key);
  }

  /** Calls `onPreview` with each new preview of the job; the returned function ends that. */
  follow(key: string, onPreview: OnPreview): () => void {
    const followers = this.#followers.get(key) ?? new Set();
    followers.add(onPreview);
    this.#followers.set(key, followers);
    return () => {
      followers.delete(onPreview);
      if (followers.size === 0) this.#followers.delete(key);
    };
  }
}
