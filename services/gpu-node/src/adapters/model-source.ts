/**
 * Where a model comes from: a local folder, which has everything, or a hub, of which the bytes that
 * are needed are fetched into our cache. Whoever loads a graph asks for its ranges first; for a
 * folder that is nothing.
 */
import { statSync } from "node:fs";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import { hubReferenceText, parseModelReference } from "@fluxline/kernel/model-reference.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type { FileRange, Graph } from "../core/image-model.ts";
import { openCheckpoint } from "./checkpoint-folder.ts";
import type { OnProgress } from "./hub/fetch-tally.ts";
import type { Environment } from "./cache-folder.ts";
import { prepareQuantised } from "./quantisation/quantised-cache.ts";
import type { StartProgress } from "./start-progress.ts";

/** So that a long download shows in a log without flooding it. */
const LOG_MS = 10_000;
const FETCHING = "fetching weights";

export interface ModelSource {
  readonly checkpoint: Checkpoint;
  readonly isFromHub: boolean;
  /** As it was named; of a hub pinned to its commit. */
  readonly name: string;
  /** The bytes are there when it resolves. Ranges of other files than the model's are passed over. */
  ensure(ranges: readonly FileRange[], onProgress?: OnProgress): Promise<void>;
}

export interface SourceOptions {
  readonly signal?: AbortSignal;
  readonly log?: (message: string, facts: Readonly<Record<string, unknown>>) => void;
}

/** @throws AppError INVALID_MODEL, HUB_*, CACHE_*, CHECKPOINT_*, each with its way out */
export async function openModel(
  reference: string,
  environment: Environment,
  { signal, log = () => undefined }: SourceOptions = {},
): Promise<ModelSource> {
  const parsed = parseModelReference(reference, isFolder(reference));
  if (parsed.kind === "folder") {
    const checkpoint = await openCheckpoint(parsed.folder);
    return { checkpoint, isFromHub: false, name: reference, ensure: async () => undefined };
  }
  // Loaded when it is needed only: a folder is opened sooner without.
  const { hubSettings } = await import("./hub/hub-settings.ts");
  const { HubModel } = await import("./hub/hub-model.ts");
  const settings = hubSettings(environment);
  const model = await HubModel.open(parsed, { settings, signal, log });
  log("model of a hub", { model: hubReferenceText(parsed), commit: model.commit });
  await model.ensureHeaders();
  // A snapshot in HF_HOME is named by its commit, which is no name for people.
  const name = parsed.repository.split("/")[1]!;
  return {
    checkpoint: { ...(await openCached(model)), name },
    isFromHub: true,
    name: model.name,
    ensure: (ranges, onProgress) => model.ensure(ranges, onProgress),
  };
}

/** What is wrong with a file of the cache is mended there, not by whoever made the model. */
async function openCached({ folder, name }: { folder: string; name: string }): Promise<Checkpoint> {
  try {
    return await openCheckpoint(folder);
  } catch (thrown) {
    const { code, message, reason, violations, details, cause } = toAppError(thrown);
    const wayOut = `if the cache is damaged, \`fluxline model verify ${name}\` finds it and removes it`;
    const options = { reason, violations, details, cause };
    throw new AppError(code, `${message}; ${wayOut}`, options);
  }
}

export function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

export interface PreparationOptions {
  readonly provider: string;
  /** For quantising. */
  readonly threads: number;
  readonly log: (message: string, facts: Readonly<Record<string, unknown>>) => void;
  readonly onProgress?: ((progress: StartProgress) => void) | undefined;
}

/**
 * What a rank does before it loads its graphs: fetches the weights that they map, and makes the
 * quantised ones. A simulated rank loads none.
 */
export async function prepareGraphs(
  source: ModelSource,
  graphs: readonly Graph[],
  { provider, threads, log, onProgress }: PreparationOptions,
): Promise<void> {
  if (provider === "simulated") return;
  let toldMs = performance.now();
  const fetchSources = (ranges: readonly FileRange[]): Promise<void> =>
    source.ensure(ranges, ({ doneBytes, totalBytes }) => {
      const nowMs = performance.now();
      if (nowMs - toldMs < LOG_MS) return;
      toldMs = nowMs;
      log(FETCHING, { doneBytes, totalBytes });
      onProgress?.({ what: FETCHING, done: doneBytes, total: totalBytes, unit: "bytes" });
    });
  await fetchSources(graphs.flatMap(({ weights }) => weights));
  await prepareQuantised(
    graphs.flatMap(({ quantised }) => quantised),
    { threads, log, onProgress, fetchSources },
  );
}
