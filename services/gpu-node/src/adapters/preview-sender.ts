/**
 * Previews on their way to those who watch: one after another is made a small file and published.
 * They are worth nothing later, so that nothing waits for them: what comes while too many are
 * under way is left out, and what is published while nobody listens is lost.
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { PREVIEW_BYTES_MAX } from "@fluxline/kernel/image-previews.ts";
import { toAppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import { publishBus } from "@fluxline/platform/bus/request.ts";
import { groupSubject } from "@fluxline/platform/bus/topology.ts";
import { type Fence, JobProgress } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { encodeImage } from "./image-file.ts";
import type { ImagePreview } from "./preview-maker.ts";

const UNDER_WAY_MAX = 16;
const NO_TEXT: ReadonlyMap<string, string> = new Map();

export interface PreviewSenderOptions {
  readonly bus: Bus;
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
}

export class PreviewSender {
  readonly #options: PreviewSenderOptions;
  #underWay = 0;
  #last: Promise<void> = Promise.resolve();

  constructor(options: PreviewSenderOptions) {
    this.#options = options;
  }

  /** Publishes the preview if it is `wanted` still when its turn comes. */
  send(fence: Fence, preview: ImagePreview, wanted: () => boolean): void {
    if (this.#underWay === UNDER_WAY_MAX) return;
    this.#underWay += 1;
    this.#last = this.#last.then(() => this.#publish(fence, preview, wanted));
  }

  async #publish(
    fence: Fence,
    { index, step, pixels }: ImagePreview,
    wanted: () => boolean,
  ): Promise<void> {
    try {
      if (!wanted()) return;
      const { bytes, contentType } = await encodeImage(pixels, "png", 0, NO_TEXT);
      // It has at most 64 Ki pixels, and PNG adds little to those that it cannot pack.
      assert(bytes.length <= PREVIEW_BYTES_MAX, `a preview of ${bytes.length} bytes`);
      if (!wanted()) return;
      const { width, height } = pixels;
      const content = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const preview = { index, step, width, height, contentType, content };
      const subject = groupSubject(fence.pool, fence.group, "progress");
      publishBus(this.#options.bus, subject, JobProgress, { fence, progress: undefined, preview });
    } catch (thrown) {
      const { message } = toAppError(thrown);
      this.#options.log("preview not sent", { job: fence.job, index, step, why: message });
    } finally {
      this.#underWay -= 1;
    }
  }
}
