/**
 * A model of a hub as a folder of our cache: its small files whole, its weight files sparse, of full
 * size, with only those bytes that somebody asked for. The folder is opened like any other.
 */
import { lstat, mkdir, open, readFile, rename, rm, stat, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { DEFAULT_REVISION, type HubReference, isCommit } from "@fluxline/kernel/model-reference.ts";
import { z } from "zod";
import { MODEL_INDEX } from "../../core/checkpoint.ts";
import { digestError, hubError, offlineError, tooLargeError } from "../../core/hub/hub-error.ts";
import {
  listedDigest,
  type ListedFile,
  partFolders,
  smallFiles,
  weightFiles,
} from "../../core/hub/model-files.ts";
import type { FileRange } from "../../core/image-model.ts";
import { headerLength, LENGTH_PREFIX_BYTES } from "../../core/safetensors.ts";
import { digestRanges } from "../checkpoint-digest.ts";
import { type CommitPlace, flatName } from "./cache-layout.ts";
import { CacheStore } from "./cache-store.ts";
import type { OnProgress } from "./fetch-tally.ts";
import { digestOfBytes } from "./file-digest.ts";
import { withLock } from "../file-lock.ts";
import { HfCache } from "./hf-cache.ts";
import { HubClient } from "./hub-client.ts";
import type { HubSettings } from "./hub-settings.ts";
import { Slots } from "./slots.ts";
import { UseMark } from "./use-mark.ts";
import { WeightFetcher } from "./weight-fetcher.ts";
import { WeightFile } from "./weight-file.ts";

export interface HubModelOptions {
  readonly settings: HubSettings;
  readonly signal?: AbortSignal | undefined;
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
}

/** As the reader of folders has it. */
const SMALL_BYTES_MAX = 64 * 2 ** 20;

const listingSchema = z.object({
  version: z.literal(1),
  files: z.array(
    z.object({
      path: z.string(),
      size: z.number(),
      gitSha1: z.string().optional(),
      sha256: z.string().optional(),
    }),
  ),
});

/** What makes up the model, of all that its repository has. */
export interface ModelFiles {
  readonly small: readonly ListedFile[];
  readonly weights: readonly ListedFile[];
}

export class HubModel {
  /** In diffusers layout. */
  readonly folder: string;
  readonly repository: string;
  readonly commit: string;
  /** Undefined where the folder is another program's, and whole. */
  readonly place: CommitPlace | undefined;
  /** Undefined of a foreign folder, offline, of which nobody has seen a list. */
  readonly files: ModelFiles | undefined;
  /** Those that are sparse and ours. */
  readonly weights: readonly WeightFile[];
  readonly #mark: UseMark | undefined;
  readonly #fetcher: WeightFetcher | undefined;

  private constructor(
    facts: { folder: string; repository: string; commit: string; files: ModelFiles | undefined },
    own?: { place: CommitPlace; mark: UseMark; weights: WeightFile[]; fetcher: WeightFetcher },
  ) {
    this.folder = facts.folder;
    this.repository = facts.repository;
    this.commit = facts.commit;
    this.files = facts.files;
    this.place = own?.place;
    this.weights = own?.weights ?? [];
    this.#mark = own?.mark;
    this.#fetcher = own?.fetcher;
  }

  /** `org/name@commit`: names the same bytes for ever. */
  get name(): string {
    return `${this.repository}@${this.commit}`;
  }

  /** Fetches the small files and makes the folder. */
  static async open(reference: HubReference, options: HubModelOptions): Promise<HubModel> {
    const opening = new Opening(options);
    await opening.store.assertWritable();
    const { repository } = reference;
    const commit = await opening.commitOf(reference);
    const foreign = await opening.wholeElsewhere(repository, commit);
    if (foreign !== undefined) return new HubModel({ ...foreign, repository, commit });
    const { place, mark, files, weights } = await opening.make(repository, commit);
    const { settings, signal, log } = options;
    const { client, store } = opening;
    const name = `${repository}@${commit}`;
    const own = { settings, client, store, mark, weights };
    const fetcher = new WeightFetcher({ name, signal, log, ...own });
    const facts = { folder: place.modelFolder, repository, commit, files };
    return new HubModel(facts, { place, mark, weights, fetcher });
  }

  /** @see WeightFetcher.ensure */
  async ensure(ranges: readonly FileRange[], onProgress?: OnProgress): Promise<void> {
    await this.#fetcher?.ensure(ranges, onProgress);
  }

  /** All that opening the folder reads: headers, and what the digest samples. */
  async ensureHeaders(onProgress?: OnProgress): Promise<void> {
    const samples = this.weights.flatMap(({ place: { file, size } }) =>
      digestRanges(size).map(([offset, length]) => ({ file, offset, length })),
    );
    await this.ensure(samples, onProgress);
    const headers = this.weights.map(async ({ place: { file, size } }): Promise<FileRange> => {
      const length = headerLength(file, size, await readStart(file, LENGTH_PREFIX_BYTES));
      return { file, offset: 0, length: LENGTH_PREFIX_BYTES + length };
    });
    await this.ensure(await Promise.all(headers));
  }

  /** All bytes of all weight files. */
  async ensureWhole(onProgress?: OnProgress): Promise<void> {
    const all = this.weights.map(({ place: { file, size } }) => ({
      file,
      offset: 0,
      length: size,
    }));
    await this.ensure(all, onProgress);
  }

  /** Says that it is not used any more; the end of the process says so too. */
  close(): void {
    this.#mark?.endNow();
  }
}

/** The steps of opening, with what they share. */
class Opening {
  readonly #options: HubModelOptions;
  readonly client: HubClient;
  readonly store: CacheStore;
  readonly #hfCache: HfCache;

  constructor(options: HubModelOptions) {
    this.#options = options;
    this.client = new HubClient(options.settings);
    this.store = new CacheStore(options.settings);
    this.#hfCache = new HfCache(options.settings.hfCacheFolder);
  }

  async commitOf({ repository, revision = DEFAULT_REVISION }: HubReference): Promise<string> {
    if (isCommit(revision)) return revision;
    const { settings, signal } = this.#options;
    if (!settings.isOffline) {
      const commit = await this.client.commitOf(repository, revision, signal);
      await this.store.writeRef(repository, revision, commit);
      return commit;
    }
    const known =
      (await this.store.readRef(repository, revision)) ??
      (await this.#hfCache.readRef(repository, revision));
    if (known !== undefined) return known;
    throw offlineError(`${repository}@${revision}`, "this revision");
  }

  /** The folder of a snapshot in HF_HOME that has all of the model. */
  async wholeElsewhere(
    repository: string,
    commit: string,
  ): Promise<{ folder: string; files: ModelFiles | undefined } | undefined> {
    const snapshot = this.#hfCache.snapshot(repository, commit);
    const index = await readFile(join(snapshot, MODEL_INDEX), "utf8").catch(() => undefined);
    if (index === undefined) return undefined;
    const place = this.store.place(repository, commit);
    const known = await readListing(place);
    // Without a list nothing says what should be there; opening it says what is not.
    if (known === undefined && this.#options.settings.isOffline) {
      return { folder: snapshot, files: undefined };
    }
    const listing = known ?? (await this.#list(place));
    const hasAll = async (files: readonly ListedFile[]): Promise<boolean> => {
      const found = files.map(({ path, size }) =>
        this.#hfCache.file(repository, commit, path, size),
      );
      return (await Promise.all(found)).every((file) => file !== undefined);
    };
    const folders = partFolders(index);
    const small = smallFiles(listing, folders);
    if (!(await hasAll(small))) return undefined;
    const texts = await readTexts(snapshot, listing, folders);
    const weights = weightFiles(listing, folders, texts);
    const files = { small, weights };
    return (await hasAll(weights)) ? { folder: snapshot, files } : undefined;
  }

  /** Marks the commit as used and makes its folder. */
  async make(
    repository: string,
    commit: string,
  ): Promise<{ place: CommitPlace; mark: UseMark; files: ModelFiles; weights: WeightFile[] }> {
    const place = this.store.place(repository, commit);
    const { settings, signal } = this.#options;
    const { lockStaleMs: staleMs, lockHeartbeatMs: heartbeatMs } = settings.limits;
    return withLock(place.lockFile, { staleMs, heartbeatMs, signal }, async () => {
      await this.store.sweep(repository);
      const listing = (await readListing(place)) ?? (await this.#list(place));
      const mark = await UseMark.begin(place);
      try {
        const files = await this.#smallFiles(place, listing);
        return { place, mark, files, weights: await this.#weightFiles(place, files) };
      } catch (thrown) {
        mark.endNow();
        throw thrown;
      }
    });
  }

  async #list(place: CommitPlace): Promise<readonly ListedFile[]> {
    const { repository, commit } = place;
    const { settings, signal } = this.#options;
    if (settings.isOffline) throw offlineError(`${repository}@${commit}`, "the model");
    const files = await this.client.list(repository, commit, signal);
    await writeWhole(place.listingFile, JSON.stringify({ version: 1, files }));
    return files;
  }

  async #smallFiles(place: CommitPlace, listing: readonly ListedFile[]): Promise<ModelFiles> {
    const indexFile = listing.find(({ path }) => path === MODEL_INDEX);
    if (indexFile === undefined) {
      const { repository, commit } = place;
      const message =
        `${repository}@${commit} has no ${MODEL_INDEX}: it is not in diffusers layout; name a ` +
        "repository that is, like black-forest-labs/FLUX.1-schnell";
      throw hubError("failed_precondition", "HUB_NO_MODEL", message);
    }
    const { settings, signal } = this.#options;
    await this.#small(place, indexFile, signal);
    const folders = partFolders(await readFile(join(place.modelFolder, MODEL_INDEX), "utf8"));
    const small = smallFiles(listing, folders);
    const slots = new Slots(settings.limits.connections);
    await slots.each(small, signal, (file, either) => this.#small(place, file, either));
    const texts = await readTexts(place.modelFolder, listing, folders);
    return { small, weights: weightFiles(listing, folders, texts) };
  }

  /** Fetched, checked, and only then given its name; or linked to where it is already. */
  async #small(
    place: CommitPlace,
    file: ListedFile,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { repository, commit, modelFolder } = place;
    const { settings } = this.#options;
    const own = join(modelFolder, file.path);
    if ((await sizeOf(own)) === file.size) return;
    const elsewhere = await this.#hfCache.file(repository, commit, file.path, file.size);
    if (elsewhere !== undefined) return link(elsewhere, own);
    if (settings.isOffline) throw offlineError(`${repository}@${commit}`, file.path);
    const target = this.client.target(repository, commit, file.path);
    if (file.size > SMALL_BYTES_MAX) throw tooLargeError(target, file.size, SMALL_BYTES_MAX);
    const bytes = await this.client.small(target, file.size, signal);
    const digest = listedDigest(file);
    const found = digest && digestOfBytes(digest, bytes);
    if (digest && found !== digest.hex) throw digestError(target, digest.hex, found!);
    await writeWhole(own, bytes);
  }

  async #weightFiles(place: CommitPlace, { weights }: ModelFiles): Promise<WeightFile[]> {
    const { repository, commit, modelFolder, weightsFolder, locksFolder } = place;
    const sparse: WeightFile[] = [];
    for (const listed of weights) {
      const { path, size, sha256 } = listed;
      const file = join(modelFolder, path);
      const isLink = (await lstat(file).catch(() => undefined))?.isSymbolicLink();
      if (isLink && (await sizeOf(file)) === size) continue;
      const elsewhere = await this.#hfCache.file(repository, commit, path, size);
      const manifestFile = join(weightsFolder, `${flatName(path)}.json`);
      if (elsewhere !== undefined) {
        await rm(manifestFile, { force: true });
        await link(elsewhere, file);
        continue;
      }
      const lockFile = join(locksFolder, `${flatName(path)}.lock`);
      const target = this.client.target(repository, commit, path);
      const digest = listedDigest(listed);
      const of = { file, manifestFile, lockFile, target, size, sha256, digest };
      const weight = new WeightFile(of);
      await weight.create();
      sparse.push(weight);
    }
    return sparse;
  }
}

export async function readListing(place: CommitPlace): Promise<readonly ListedFile[] | undefined> {
  const text = await readFile(place.listingFile, "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  // Of another version, or damaged: it is asked for again.
  const parsed = listingSchema.safeParse(parseJson(text));
  return parsed.data?.files.map(({ path, size, gitSha1, sha256 }) => ({
    path,
    size,
    gitSha1,
    sha256,
  }));
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // the caller takes it for no listing
  }
}

/** Shard indexes of the parts, read beforehand because what needs them is synchronous. */
async function readTexts(
  folder: string,
  listing: readonly ListedFile[],
  folders: readonly string[],
): Promise<(path: string) => string> {
  const indexes = smallFiles(listing, folders).filter(({ path }) => path.endsWith(".index.json"));
  const texts = new Map<string, string>();
  for (const { path } of indexes) texts.set(path, await readFile(join(folder, path), "utf8"));
  return (path) => texts.get(path)!;
}

async function sizeOf(file: string): Promise<number | undefined> {
  return (await stat(file).catch(() => undefined))?.size;
}

async function writeWhole(file: string, content: string | Uint8Array): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const draft = `${file}.draft`;
  const handle = await open(draft, "w");
  try {
    await handle.writeFile(content);
    await handle.datasync();
  } finally {
    await handle.close();
  }
  await rename(draft, file);
}

async function link(target: string, file: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const draft = `${file}.draft`;
  await rm(draft, { force: true });
  await symlink(target, draft);
  await rename(draft, file);
}

async function readStart(file: string, length: number): Promise<Uint8Array> {
  const handle = await open(file, "r");
  try {
    const { buffer, bytesRead } = await handle.read(new Uint8Array(length), 0, length, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
