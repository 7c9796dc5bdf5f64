/**
 * Speaks to a hub: which commit a revision is, which files it has, and the bytes of one file. The
 * API is `@huggingface/hub`'s; what it does not do is here: bounded tries again, no token to any
 * other origin than the hub's own, silence noticed, errors that name the way out.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type AppError, toAppError } from "@fluxline/kernel/error.ts";
import { isCommit } from "@fluxline/kernel/model-reference.ts";
import { listFiles, modelInfo } from "@huggingface/hub";
import type { ByteRange } from "../../core/hub/byte-ranges.ts";
import {
  answerError,
  changedError,
  cutShortError,
  hubError,
  type HubTarget,
  stalledError,
  targetText,
  unreachableError,
} from "../../core/hub/hub-error.ts";
import { decideRetry, type RetryLimits, retryAfterMs } from "../../core/hub/hub-retry.ts";
import type { ListedFile } from "../../core/hub/model-files.ts";
import type { HubSettings } from "./hub-settings.ts";

const REDIRECTS_MAX = 5;
const FILES_MAX = 10_000;
/** A signed address of a file's store is asked for anew after this. */
const PLACE_MS_MAX = 60_000;

export interface RangeAnswer {
  /** Of the version that these bytes are of. */
  readonly etag: string;
  readonly body: AsyncIterable<Uint8Array>;
}

/** Where a file's bytes come from, once the hub has said so. */
interface Place {
  readonly url: string;
  readonly etag: string;
  /** What the store itself calls this version. */
  readonly storeEtag: string;
  readonly sinceMs: number;
}

interface Reply {
  readonly response: Response;
  readonly url: string;
  /** The hub's word for a file that lies elsewhere. */
  readonly linkedEtag: string | undefined;
}

export class HubClient {
  readonly #settings: HubSettings;
  readonly #places = new Map<string, Place>();

  constructor(settings: HubSettings) {
    this.#settings = settings;
  }

  target(repository: string, revision: string, path?: string): HubTarget {
    const { endpoint, token } = this.#settings;
    return { endpoint, repository, revision, path, hasToken: token !== undefined };
  }

  async commitOf(repository: string, revision: string, signal?: AbortSignal): Promise<string> {
    const target = this.target(repository, revision);
    const { sha } = await modelInfo({
      name: repository,
      revision,
      hubUrl: this.#settings.endpoint,
      additionalFields: ["sha"],
      fetch: this.#apiFetch(target, signal),
    });
    if (isCommit(sha)) return sha;
    throw this.#strange(target, `gave the commit ${JSON.stringify(sha)}`);
  }

  async list(repository: string, commit: string, signal?: AbortSignal): Promise<ListedFile[]> {
    const target = this.target(repository, commit);
    const files: ListedFile[] = [];
    const listing = listFiles({
      repo: repository,
      revision: commit,
      recursive: true,
      hubUrl: this.#settings.endpoint,
      fetch: this.#apiFetch(target, signal),
    });
    for await (const { type, path, size, oid, lfs } of listing) {
      if (type !== "file") continue;
      if (path.split("/").includes("..") || path.startsWith("/")) {
        throw this.#strange(target, `lists the path ${JSON.stringify(path)}`);
      }
      // Of a large file git has only a pointer.
      const gitSha1 = lfs === undefined ? oid : undefined;
      files.push({ path, size: lfs?.size ?? size, gitSha1, sha256: lfs?.oid });
      if (files.length > FILES_MAX) throw this.#strange(target, `lists over ${FILES_MAX} files`);
    }
    return files;
  }

  /** The whole of a small file. */
  async small(target: HubTarget, size: number, signal?: AbortSignal): Promise<Uint8Array> {
    if (size === 0) return new Uint8Array();
    return this.#trying(signal, async () => {
      const watch = new Watch(this.#settings.limits.stallMs, signal);
      try {
        const url = this.#fileUrl(target);
        const { response } = await this.#follow(url, {}, target, watch);
        const parts: Uint8Array[] = [];
        for await (const part of bodyOf(response, watch)) parts.push(part);
        const bytes = Buffer.concat(parts);
        if (bytes.length === size) return bytes;
        throw cutShortError(target, bytes.length, size);
      } catch (thrown) {
        throw watch.failure(thrown, target);
      } finally {
        watch.end();
      }
    });
  }

  /**
   * One try of some bytes of a file of `size`; the body may break off or fall silent, which it
   * throws. `watch` is the caller's to end.
   */
  async openRange(
    target: HubTarget,
    [begin, end]: ByteRange,
    size: number,
    watch: Watch,
  ): Promise<RangeAnswer> {
    const key = targetText(target);
    const place = this.#knownPlace(key);
    const headers = { range: `bytes=${begin}-${end - 1}` };
    try {
      const reply = await this.#follow(place?.url ?? this.#fileUrl(target), headers, target, watch);
      const { response, url, linkedEtag } = reply;
      const storeEtag = plainEtag(response.headers.get("etag")) ?? "";
      if (place !== undefined && storeEtag !== place.storeEtag) {
        // Another version in the store, or another store: the hub says which.
        this.#places.delete(key);
        await response.body?.cancel();
        return await this.openRange(target, [begin, end], size, watch);
      }
      const etag = place?.etag ?? linkedEtag ?? storeEtag;
      if (etag === "") throw this.#strange(target, "gives no ETag");
      this.#checkRange(target, response, [begin, end], size);
      if (place === undefined && !this.#isHub(url)) {
        this.#places.set(key, { url, etag, storeEtag, sinceMs: performance.now() });
      }
      return { etag, body: bodyOf(response, watch) };
    } catch (thrown) {
      // A signed address that has run out looks like a refusal.
      if (place === undefined || watch.isOver) throw thrown;
      this.#places.delete(key);
      return this.openRange(target, [begin, end], size, watch);
    }
  }

  #knownPlace(key: string): Place | undefined {
    const place = this.#places.get(key);
    if (place === undefined || performance.now() - place.sinceMs < PLACE_MS_MAX) return place;
    this.#places.delete(key);
    return undefined;
  }

  #checkRange(target: HubTarget, response: Response, [begin, end]: ByteRange, size: number): void {
    if (response.status === 200) {
      const length = Number(response.headers.get("content-length") ?? size);
      if (length !== size) throw changedError(target, `${size} bytes`, `${length} bytes`);
      if (begin === 0) return; // it sends all, from the first byte on: enough of it is read
      const message =
        `${targetText(target)}: ${target.endpoint} does not answer for parts of files (header ` +
        "Range); set HF_ENDPOINT to a hub that does, or copy the whole folder";
      throw hubError("failed_precondition", "HUB_NO_RANGES", message);
    }
    const said = response.headers.get("content-range") ?? "";
    const [, from, to, of] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(said) ?? [];
    if (of !== undefined && Number(of) !== size) {
      throw changedError(target, `${size} bytes`, `${of} bytes`);
    }
    // Fewer bytes than asked for are a broken connection's business; others are not.
    if (Number(from) === begin && Number(to) < end) return;
    throw this.#strange(target, `answered bytes ${begin}-${end - 1} with "${said}"`);
  }

  /** `fetch` for the API: it throws our errors, and tries again what may go by. */
  #apiFetch(target: HubTarget, signal: AbortSignal | undefined): typeof fetch {
    return (input, init) =>
      this.#trying(signal, async () => {
        const url = input instanceof Request ? input.url : String(input);
        const watch = new Watch(this.#settings.limits.stallMs, signal);
        try {
          const headers = Object.fromEntries(new Headers(init?.headers));
          const { response } = await this.#follow(url, headers, target, watch);
          const parts: Uint8Array[] = [];
          for await (const part of bodyOf(response, watch)) parts.push(part);
          return new Response(Buffer.concat(parts), response);
        } catch (thrown) {
          throw watch.failure(thrown, target);
        } finally {
          watch.end();
        }
      });
  }

  async #trying<T>(signal: AbortSignal | undefined, once: () => Promise<T>): Promise<T> {
    for (let failures = 1; ; failures++) {
      try {
        return await once();
      } catch (thrown) {
        const { firstRetries } = this.#settings.limits;
        await restOrGiveUp(toAppError(thrown), failures, firstRetries, signal);
      }
    }
  }

  /** Follows redirects by hand: the token goes to the hub only, the rest of the headers along. */
  async #follow(
    from: string,
    headers: Readonly<Record<string, string>>,
    target: HubTarget,
    watch: Watch,
  ): Promise<Reply> {
    let url = from;
    let linkedEtag: string | undefined;
    for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
      const { token } = this.#settings;
      const authorization = token !== undefined && this.#isHub(url) ? `Bearer ${token}` : undefined;
      const response = await fetch(url, {
        redirect: "manual",
        signal: watch.signal,
        headers: {
          "user-agent": "fluxline",
          // Bytes of a range must be the file's, not those of a packed one.
          "accept-encoding": "identity",
          ...headers,
          ...(authorization === undefined ? {} : { authorization }),
        },
      });
      watch.touch();
      linkedEtag ??= plainEtag(response.headers.get("x-linked-etag"));
      const location = response.headers.get("location");
      if (response.status >= 300 && response.status < 400 && location !== null) {
        await response.body?.cancel();
        url = new URL(location, url).href;
        continue;
      }
      if (response.ok) return { response, url, linkedEtag };
      await response.body?.cancel();
      throw answerError(target, {
        status: response.status,
        errorCode: response.headers.get("x-error-code") ?? undefined,
        retryAfterMs: retryAfterMs(response.headers.get("retry-after"), Date.now()),
      });
    }
    throw this.#strange(target, `redirects more than ${REDIRECTS_MAX} times`);
  }

  #isHub(url: string): boolean {
    return new URL(url).origin === new URL(this.#settings.endpoint).origin;
  }

  #fileUrl({ endpoint, repository, revision, path = "" }: HubTarget): string {
    const encoded = path.split("/").map(encodeURIComponent).join("/");
    return `${endpoint}/${repository}/resolve/${encodeURIComponent(revision)}/${encoded}`;
  }

  #strange(target: HubTarget, what: string): AppError {
    const message = `${targetText(target)}: ${target.endpoint} ${what}, which a hub should not`;
    return hubError("internal", "HUB_ANSWER_INVALID", `${message}; check HF_ENDPOINT`);
  }
}

/** Waits as long as the error deserves, or throws it. */
export async function restOrGiveUp(
  error: AppError,
  failures: number,
  limits: RetryLimits,
  signal: AbortSignal | undefined,
): Promise<void> {
  const decision = decideRetry(error, failures, Math.random(), limits);
  if (decision.kind === "give-up") throw error;
  await sleep(decision.delayMs, undefined, { signal });
}

/** Notices silence: its signal aborts when nothing came for a while, or when the caller ends it. */
export class Watch {
  readonly #stallMs: number;
  readonly #outer: AbortSignal | undefined;
  readonly #stalled = new AbortController();
  readonly signal: AbortSignal;
  #timer: NodeJS.Timeout | undefined;

  constructor(stallMs: number, outer: AbortSignal | undefined) {
    this.#stallMs = stallMs;
    this.#outer = outer;
    const { signal } = this.#stalled;
    this.signal = outer === undefined ? signal : AbortSignal.any([signal, outer]);
    this.touch();
  }

  get isOver(): boolean {
    return this.signal.aborted;
  }

  touch(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#stalled.abort(), this.#stallMs);
  }

  end(): void {
    clearTimeout(this.#timer);
  }

  /** What a failed request was: ours as it is, silence, the caller's end, or the network. */
  failure(thrown: unknown, target: HubTarget): unknown {
    if (this.#outer?.aborted) return this.#outer.reason;
    if (this.#stalled.signal.aborted) return stalledError(target, this.#stallMs);
    const isNetwork = thrown instanceof TypeError;
    return isNetwork ? unreachableError(target, thrown) : thrown;
  }
}

async function* bodyOf(response: Response, watch: Watch): AsyncIterable<Uint8Array> {
  if (response.body === null) return;
  for await (const part of response.body) {
    watch.touch();
    yield part;
  }
}

function plainEtag(header: string | null): string | undefined {
  if (header === null) return undefined;
  return header.replace(/^W\//, "").replaceAll('"', "");
}
