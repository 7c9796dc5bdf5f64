/**
 * The cache as a whole: which commits of which models it holds, how much room they take, and how room
 * is made. A commit is removed under its lock, never while a living process has a mark in it.
 */
import { randomUUID } from "node:crypto";
import {
  access,
  constants,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  statfs,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError } from "@fluxline/kernel/error.ts";
import { isCommit } from "@fluxline/kernel/model-reference.ts";
import { byteSizeText } from "../../core/hub/byte-size.ts";
import { chooseEviction } from "../../core/hub/cache-eviction.ts";
import {
  type CommitPlace,
  commitPlace,
  refFile,
  refsFolder,
  REMOVED_PREFIX,
  repositoryFolder,
  repositoryOf,
} from "./cache-layout.ts";
import { withLock } from "../file-lock.ts";
import type { HubSettings } from "./hub-settings.ts";
import { livingUses, type Use } from "./use-mark.ts";

/** Of one file as `stat` counts them. */
const BLOCK_BYTES = 512;

export interface StoredCommit {
  readonly place: CommitPlace;
  /** On the disk, which for a sparse file is what is there. */
  readonly bytes: number;
  readonly lastUseMs: number;
  readonly uses: readonly Use[];
}

export class CacheStore {
  readonly #settings: HubSettings;

  constructor(settings: HubSettings) {
    this.#settings = settings;
  }

  place(repository: string, commit: string): CommitPlace {
    return commitPlace(this.#settings.cacheFolder, repository, commit);
  }

  /** @throws AppError CACHE_NOT_WRITABLE */
  async assertWritable(): Promise<void> {
    const { cacheFolder } = this.#settings;
    try {
      await mkdir(cacheFolder, { recursive: true });
      await access(cacheFolder, constants.W_OK);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      const message =
        `the cache of models ${cacheFolder} cannot be written to (${why}); ` +
        "set FLUXLINE_CACHE to a folder that can";
      const options = { reason: "CACHE_NOT_WRITABLE", cause };
      throw new AppError("failed_precondition", message, options);
    }
  }

  async readRef(repository: string, revision: string): Promise<string | undefined> {
    const file = refFile(this.#settings.cacheFolder, repository, revision);
    const text = await readFile(file, "utf8").catch(() => "");
    return isCommit(text.trim()) ? text.trim() : undefined;
  }

  async writeRef(repository: string, revision: string, commit: string): Promise<void> {
    const file = refFile(this.#settings.cacheFolder, repository, revision);
    await mkdir(dirname(file), { recursive: true });
    const draft = `${file}.${randomUUID()}`;
    await writeFile(draft, commit);
    await rename(draft, file);
  }

  /** Revisions by which the commits of a model were asked for. */
  async refs(repository: string): Promise<ReadonlyMap<string, readonly string[]>> {
    const names = await readdir(refsFolder(this.#settings.cacheFolder, repository)).catch(() => []);
    const byCommit = new Map<string, string[]>();
    for (const name of names) {
      const revision = decodeURIComponent(name);
      const commit = await this.readRef(repository, revision);
      if (commit !== undefined) byCommit.set(commit, [...(byCommit.get(commit) ?? []), revision]);
    }
    return byCommit;
  }

  async commits(): Promise<readonly StoredCommit[]> {
    const { cacheFolder } = this.#settings;
    const found: StoredCommit[] = [];
    for (const folder of await readdir(cacheFolder).catch(() => [])) {
      const repository = repositoryOf(folder);
      if (repository === undefined) continue;
      for (const commit of await readdir(join(cacheFolder, folder))) {
        if (!isCommit(commit)) continue;
        const place = commitPlace(cacheFolder, repository, commit);
        const lastUse = await stat(place.lastUseFile).catch(() => undefined);
        found.push({
          place,
          bytes: await folderBytes(place.root),
          lastUseMs: lastUse?.mtimeMs ?? 0,
          uses: await livingUses(place),
        });
      }
    }
    return found;
  }

  /**
   * Makes sure that `neededBytes` can be stored for the use `ownId`, evicting what nobody uses where
   * a limit asks for it. What other processes are about to store counts as stored.
   * @throws AppError CACHE_DISK_FULL, CACHE_LIMIT_REACHED
   */
  async makeRoom(what: string, neededBytes: number, ownId: string): Promise<readonly string[]> {
    const { cacheFolder, cacheBytesMax, limits } = this.#settings;
    const commits = await this.commits();
    const pending = (stored: StoredCommit): number =>
      stored.uses.reduce((sum, use) => sum + (use.id === ownId ? 0 : use.pendingBytes), 0);
    const evicted = cacheBytesMax === undefined ? [] : await this.#evict(what, neededBytes, ownId);
    const { bavail, bsize } = await statfs(cacheFolder);
    const promised = commits.reduce((sum, stored) => sum + pending(stored), 0);
    const freeBytes = Math.max(0, bavail * bsize - promised - limits.spareBytes);
    if (neededBytes <= freeBytes) return evicted;
    const idle = commits.filter(({ uses }) => uses.length === 0);
    throw new AppError(
      "resource_exhausted",
      `${what} needs ${byteSizeText(neededBytes)} more in ${cacheFolder}, where ` +
        `${byteSizeText(freeBytes)} are free${removeText(idle)}; or set FLUXLINE_CACHE to a folder ` +
        "on a larger disk",
      { reason: "CACHE_DISK_FULL", retryable: false },
    );
  }

  async #evict(what: string, neededBytes: number, ownId: string): Promise<readonly string[]> {
    const { cacheFolder, cacheBytesMax: bytesMax = 0 } = this.#settings;
    const commits = await this.commits();
    const candidates = commits.map((stored) => ({
      id: stored.place.root,
      bytes: stored.uses.reduce(
        (sum, use) => sum + (use.id === ownId ? 0 : use.pendingBytes),
        stored.bytes,
      ),
      lastUseMs: stored.lastUseMs,
      inUse: stored.uses.length > 0,
    }));
    const choice = chooseEviction(candidates, neededBytes, bytesMax);
    if (choice.kind === "too-large") {
      throw new AppError(
        "resource_exhausted",
        `${what} needs ${byteSizeText(neededBytes)} more in ${cacheFolder}, which holds ` +
          `${byteSizeText(choice.usedBytes)} of the ${byteSizeText(bytesMax)} that ` +
          `FLUXLINE_CACHE_MAX allows, and ${byteSizeText(choice.removableBytes)} of that are not in ` +
          "use; set FLUXLINE_CACHE_MAX higher",
        { reason: "CACHE_LIMIT_REACHED", retryable: false },
      );
    }
    const evicted: string[] = [];
    for (const { place } of commits.filter(({ place: { root } }) => choice.evict.includes(root))) {
      // Somebody may have begun to use it since: then the cache is over its limit for a while.
      if ((await this.remove(place)).length === 0)
        evicted.push(`${place.repository}@${place.commit}`);
    }
    return evicted;
  }

  /** Removes a commit unless somebody uses it; says who does. */
  async remove(place: CommitPlace): Promise<readonly Use[]> {
    const { lockStaleMs: staleMs, lockHeartbeatMs: heartbeatMs } = this.#settings.limits;
    return withLock(place.lockFile, { staleMs, heartbeatMs }, async (lock) => {
      const uses = await livingUses(place);
      if (uses.length > 0) return uses;
      // Another was faster.
      if (!(await exists(place.root))) return [];
      lock.assertHeld();
      // At once for everybody who looks, then bit by bit.
      const aside = join(dirname(place.root), `${REMOVED_PREFIX}${randomUUID()}`);
      await rename(place.root, aside);
      await rm(aside, { recursive: true, force: true });
      await this.#removeRefs(place);
      return [];
    });
  }

  async #removeRefs({ repository, commit }: CommitPlace): Promise<void> {
    const { cacheFolder } = this.#settings;
    for (const revision of (await this.refs(repository)).get(commit) ?? []) {
      await rm(refFile(cacheFolder, repository, revision), { force: true });
    }
  }

  /** What a removal that was cut short has left. */
  async sweep(repository: string): Promise<void> {
    const folder = repositoryFolder(this.#settings.cacheFolder, repository);
    for (const name of await readdir(folder).catch(() => [])) {
      if (name.startsWith(REMOVED_PREFIX))
        await rm(join(folder, name), { recursive: true, force: true });
    }
  }
}

/** A disk that became full meanwhile, as our error; anything else as it is. */
export function diskError(thrown: unknown, what: string, cacheFolder: string): unknown {
  const code = thrown instanceof Error && "code" in thrown ? thrown.code : undefined;
  if (code !== "ENOSPC" && code !== "EDQUOT") return thrown;
  const message =
    `${what}: no room is left in ${cacheFolder} (${code}); what came so far is kept; make room ` +
    "(fluxline model list shows what models take), then pull it again";
  const options = { reason: "CACHE_DISK_FULL", retryable: false, cause: thrown };
  return new AppError("resource_exhausted", message, options);
}

function removeText(idle: readonly StoredCommit[]): string {
  const [largest] = idle.toSorted((a, b) => b.bytes - a.bytes);
  if (largest === undefined || largest.bytes === 0) return "";
  const all = byteSizeText(idle.reduce((sum, { bytes }) => sum + bytes, 0));
  const { place, bytes } = largest;
  return (
    `; models that nobody uses hold ${all}: fluxline model remove ${place.repository} ` +
    `gives back ${byteSizeText(bytes)}`
  );
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

async function folderBytes(folder: string): Promise<number> {
  let bytes = 0;
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    const found = await stat(join(entry.parentPath, entry.name)).catch(() => undefined);
    bytes += (found?.blocks ?? 0) * BLOCK_BYTES;
  }
  return bytes;
}
