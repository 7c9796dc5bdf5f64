/**
 * A small hub that speaks the real one's API and serves any folder as a repository: commits, trees by
 * pages, and files, large ones by a redirect to a store of another origin, in ranges. It counts every
 * byte that it serves, and misbehaves on request.
 */
import { createHash } from "node:crypto";
import { open, readdir, readFile, stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  byteCount,
  type ByteRange,
  type ByteRanges,
  byteSet,
} from "@fluxline/gpu-node/core/hub/byte-ranges.ts";

const LARGE_BYTES = 256 * 1024;
const WRITE_BYTES = 64 * 1024;
const PAGE_FILES = 5;

/** What goes wrong with requests of a file (or of the API), the first `times` of them. */
export interface Fault {
  /** Part of the address; of the API too. */
  readonly on: string;
  readonly times: number;
  /** So many requests before are spared. */
  readonly after?: number;
  /** At the hub itself, or at the store that it redirects to; default: wherever the bytes are. */
  readonly at?: "hub" | "store";
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** The connection is cut after so many bytes. */
  readonly cutAfter?: number;
  /** The answer ends in order after so many bytes, and says so. */
  readonly shortBy?: number;
  /** Nothing more comes after so many bytes. */
  readonly stallAfter?: number;
  /** A byte is another. */
  readonly wrongByte?: boolean;
  readonly etag?: string;
  /** The whole file, whatever was asked for. */
  readonly noRanges?: boolean;
}

interface ServedFile {
  readonly path: string;
  readonly file: string;
  readonly size: number;
  readonly gitSha1: string;
  /** Of a large one, which lies in the store. */
  readonly sha256: string | undefined;
}

export interface Repository {
  readonly name: string;
  readonly commit: string;
  readonly revisions: ReadonlyMap<string, string>;
  readonly files: readonly ServedFile[];
  readonly gated: boolean;
}

export interface HubRequest {
  readonly origin: "hub" | "store";
  readonly url: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

export interface RepositoryOptions {
  readonly commit?: string;
  /** Only those with a token in `tokens` get files. */
  readonly gated?: boolean;
  readonly branches?: readonly string[];
}

export class HubServer {
  readonly endpoint: string;
  readonly requests: HubRequest[] = [];
  readonly tokens = new Set<string>();
  faults: (Fault & { left: number; spare: number })[] = [];
  /** Bytes a second of one connection. */
  bytesPerSecond = Number.POSITIVE_INFINITY;
  readonly #store: string;
  readonly #servers: readonly Server[];
  readonly #repositories = new Map<string, Repository>();
  readonly #served = new Map<string, ByteRange[]>();

  private constructor(hub: Server, store: Server) {
    this.#servers = [hub, store];
    this.endpoint = addressOf(hub);
    this.#store = addressOf(store);
    hub.on("request", (request, response) => void this.#answer("hub", request, response));
    store.on("request", (request, response) => void this.#answer("store", request, response));
  }

  static async start(): Promise<HubServer> {
    const servers = [createServer(), createServer()] as const;
    for (const server of servers) {
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    }
    return new HubServer(...servers);
  }

  async close(): Promise<void> {
    for (const server of this.#servers) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  /** Serves a folder as `org/name`; its commit is a digest of what is in it. */
  async serve(name: string, folder: string, options: RepositoryOptions = {}): Promise<Repository> {
    const files: ServedFile[] = [];
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      if (entry.isDirectory()) continue;
      const file = join(entry.parentPath, entry.name);
      const { size } = await stat(file);
      const digests = await digestsOf(file, size);
      files.push({ path: relative(folder, file), file, size, ...digests });
    }
    files.sort((a, b) => (a.path < b.path ? -1 : 1));
    const list = JSON.stringify(files.map(({ path, gitSha1, sha256 }) => [path, gitSha1, sha256]));
    const commit = options.commit ?? createHash("sha1").update(list).digest("hex");
    const branches = ["main", ...(options.branches ?? [])];
    const revisions = new Map([...branches, commit].map((revision) => [revision, commit]));
    const repository = { name, commit, revisions, files, gated: options.gated ?? false };
    this.#repositories.set(name, repository);
    return repository;
  }

  remove(name: string): void {
    this.#repositories.delete(name);
  }

  fail(...faults: readonly Fault[]): void {
    this.faults = faults.map((fault) => ({
      ...fault,
      left: fault.times,
      spare: fault.after ?? 0,
    }));
  }

  /** Bytes that went out for a file, every one as often as it went. */
  bytesServed(path?: string): number {
    const all = path === undefined ? [...this.#served.values()].flat() : this.#served.get(path);
    return (all ?? []).reduce((sum, [begin, end]) => sum + end - begin, 0);
  }

  /** Which bytes of a file went out at least once. */
  bytesOnce(path: string): ByteRanges {
    return byteSet(this.#served.get(path) ?? []);
  }

  /** Bytes that went out more than once. */
  bytesAgain(): number {
    const once = [...this.#served.keys()].map((path) => byteCount(this.bytesOnce(path)));
    return this.bytesServed() - once.reduce((sum, bytes) => sum + bytes, 0);
  }

  forget(): void {
    this.#served.clear();
    this.requests.length = 0;
  }

  async #answer(origin: "hub" | "store", request: IncomingMessage, response: ServerResponse) {
    const url = request.url ?? "/";
    const { range, authorization } = request.headers;
    this.requests.push({ origin, url, range, authorization });
    // The other end hangs up whenever it likes.
    response.on("error", () => undefined);
    const fault = this.#faultFor(origin, url);
    if (fault?.status !== undefined) {
      response.writeHead(fault.status, fault.headers).end("this is a fault");
      return;
    }
    const { pathname, searchParams } = new URL(url, this.endpoint);
    if (pathname.startsWith("/api/models/")) return this.#api(pathname, searchParams, response);
    await this.#resolve(origin, pathname, request, response, fault);
  }

  #faultFor(origin: "hub" | "store", url: string): Fault | undefined {
    const decoded = decodeURIComponent(url);
    const fault = this.faults.find(({ on, at = origin, left }) => {
      return left > 0 && at === origin && decoded.includes(on);
    });
    // What concerns bytes is for where they are.
    const isOfBytes = fault !== undefined && fault.status === undefined && fault.at === undefined;
    if (isOfBytes && origin === "hub" && this.#isLarge(decoded)) return undefined;
    if (fault === undefined) return undefined;
    if (fault.spare > 0) {
      fault.spare -= 1;
      return undefined;
    }
    fault.left -= 1;
    return fault;
  }

  #isLarge(url: string): boolean {
    const { file } = this.#find(new URL(url, this.endpoint).pathname);
    return file?.sha256 !== undefined;
  }

  #api(pathname: string, query: URLSearchParams, response: ServerResponse): void {
    const [organisation, name, kind = "revision", revision = "main"] = pathname
      .slice(12)
      .split("/");
    const repository = this.#repositories.get(`${organisation}/${name}`);
    if (repository === undefined) return missing(response, 401, "RepoNotFound");
    const commit = repository.revisions.get(decodeURIComponent(revision));
    if (commit === undefined) return missing(response, 404, "RevisionNotFound");
    if (kind === "revision") {
      const lastModified = new Date(0).toISOString();
      const siblings = repository.files.map(({ path }) => ({ rfilename: path }));
      const { gated } = repository;
      return json(response, { id: repository.name, sha: commit, lastModified, gated, siblings });
    }
    const from = Number(query.get("cursor") ?? 0);
    const page = repository.files.slice(from, from + PAGE_FILES).map(treeEntry);
    const folders = new Set(repository.files.map(({ path }) => path.split("/")[0]!));
    const directories = [...folders].map((path) => ({
      type: "directory",
      oid: "0",
      size: 0,
      path,
    }));
    const next = new URL(`${this.endpoint}${pathname}?${query}`);
    next.searchParams.set("cursor", String(from + PAGE_FILES));
    const hasMore = from + PAGE_FILES < repository.files.length;
    json(
      response,
      from === 0 ? [...directories, ...page] : page,
      hasMore ? { link: `<${next}>; rel="next"` } : {},
    );
  }

  #find(pathname: string): { repository?: Repository; file?: ServedFile; path: string } {
    const [, organisation, name, , revision, ...parts] = decodeURIComponent(pathname).split("/");
    const repository = this.#repositories.get(`${organisation}/${name}`);
    const path = parts.join("/");
    if (repository?.revisions.has(revision ?? "") !== true) return { path };
    const file = repository.files.find((one) => one.path === path);
    return { repository, path, ...(file === undefined ? {} : { file }) };
  }

  async #resolve(
    origin: "hub" | "store",
    pathname: string,
    request: IncomingMessage,
    response: ServerResponse,
    fault: Fault | undefined,
  ): Promise<void> {
    const { repository, file } = this.#find(pathname);
    if (repository === undefined) return missing(response, 401, "RepoNotFound");
    if (file === undefined) return missing(response, 404, "EntryNotFound");
    const { authorization } = request.headers;
    if (origin === "store" && authorization !== undefined) {
      response.writeHead(400).end("a token came to another origin");
      return;
    }
    if (origin === "hub" && repository.gated) {
      if (authorization === undefined) return missing(response, 401, "GatedRepo");
      const hasAccess = this.tokens.has(authorization.replace("Bearer ", ""));
      if (!hasAccess) return missing(response, 403, "GatedRepo");
    }
    const headers: Record<string, string> = { "x-repo-commit": repository.commit };
    if (origin === "hub" && file.sha256 !== undefined) {
      response.writeHead(302, {
        ...headers,
        "x-linked-etag": `"${fault?.etag ?? file.sha256}"`,
        "x-linked-size": String(file.size),
        location: `${this.#store}${pathname}?signature=abc`,
      });
      response.end();
      return;
    }
    const etag = fault?.etag ?? file.sha256 ?? file.gitSha1;
    await this.#sendBytes(file, request, response, { ...headers, etag: `"${etag}"` }, fault);
  }

  async #sendBytes(
    file: ServedFile,
    request: IncomingMessage,
    response: ServerResponse,
    headers: Readonly<Record<string, string>>,
    fault: Fault | undefined,
  ): Promise<void> {
    const { size } = file;
    const asked = fault?.noRanges
      ? undefined
      : /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const begin = asked ? Number(asked[1]) : 0;
    let end = asked ? Math.min(size, Number(asked[2]) + 1) : size;
    if (begin >= size && asked) {
      response.writeHead(416, { "content-range": `bytes */${size}` }).end();
      return;
    }
    end = Math.max(begin + 1, end - (fault?.shortBy ?? 0));
    const range = asked ? { "content-range": `bytes ${begin}-${end - 1}/${size}` } : {};
    const length = { "content-length": String(end - begin), "accept-ranges": "bytes" };
    response.writeHead(asked ? 206 : 200, { ...headers, ...range, ...length });
    if (request.method === "HEAD") return void response.end();
    const closed = new Promise<boolean>((resolve) => response.once("close", () => resolve(false)));
    const handle = await open(file.file, "r");
    try {
      for (let at = begin; at < end && !response.destroyed;) {
        const stop = begin + (fault?.cutAfter ?? fault?.stallAfter ?? Number.POSITIVE_INFINITY);
        if (at >= stop) {
          if (fault?.cutAfter !== undefined) response.destroy();
          return; // else it stays open, and silent
        }
        const want = Math.min(end, stop, at + WRITE_BYTES) - at;
        const { buffer, bytesRead } = await handle.read(Buffer.alloc(want), 0, want, at);
        const bytes = buffer.subarray(0, bytesRead);
        if (fault?.wrongByte && at === begin) bytes[0]! ^= 0xff;
        const sent = new Promise<boolean>((resolve) => {
          response.write(bytes, (error) => resolve(!error));
        });
        if (!(await Promise.race([sent, closed]))) return;
        this.#count(file.path, [at, at + bytesRead]);
        at += bytesRead;
        const restMs = (1000 * bytesRead) / this.bytesPerSecond;
        if (restMs > 0) await sleep(restMs);
      }
      response.end();
    } finally {
      await handle.close();
    }
  }

  #count(path: string, range: ByteRange): void {
    const served = this.#served.get(path);
    if (served === undefined) this.#served.set(path, [range]);
    else served.push(range);
  }
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function digestsOf(
  file: string,
  size: number,
): Promise<Pick<ServedFile, "gitSha1" | "sha256">> {
  const isLarge = size > LARGE_BYTES;
  if (!isLarge) {
    const hash = createHash("sha1")
      .update(`blob ${size}\0`)
      .update(await readFile(file));
    return { gitSha1: hash.digest("hex"), sha256: undefined };
  }
  const hash = createHash("sha256");
  const handle = await open(file, "r");
  for await (const part of handle.createReadStream()) hash.update(part as Buffer);
  const sha256 = hash.digest("hex");
  return { gitSha1: createHash("sha1").update(sha256).digest("hex"), sha256 };
}

function treeEntry({ path, size, gitSha1, sha256 }: ServedFile): object {
  const entry = { type: "file", oid: gitSha1, size, path };
  return sha256 === undefined ? entry : { ...entry, lfs: { oid: sha256, size, pointerSize: 134 } };
}

function json(response: ServerResponse, value: unknown, headers = {}): void {
  const type = { "content-type": "application/json; charset=utf-8" };
  response.writeHead(200, { ...type, ...headers }).end(JSON.stringify(value));
}

function missing(response: ServerResponse, status: number, code: string): void {
  response.writeHead(status, { "x-error-code": code, "x-error-message": code }).end(code);
}
