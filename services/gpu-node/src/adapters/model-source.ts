/**
 * Where a model comes from: a local folder, which has everything, or a hub, of which the bytes that
 * are needed are fetched into our cache. Whoever loads a graph asks for its ranges first; for a
 * folder that is nothing.
 */
import { statSync } from "node:fs";
import { hubReferenceText, parseModelReference } from "@fluxline/kernel/model-reference.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type { FileRange, Graph } from "../core/image-model.ts";
import { openCheckpoint } from "./checkpoint-folder.ts";
import type { OnProgress } from "./hub/fetch-tally.ts";
import type { Environment } from "./hub/hub-settings.ts";

/** So that a long download shows in a log without flooding it. */
const LOG_MS = 10_000;

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
    checkpoint: { ...(await openCheckpoint(model.folder)), name },
    isFromHub: true,
    name: model.name,
    ensure: (ranges, onProgress) => model.ensure(ranges, onProgress),
  };
}

export function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** What a rank does before it loads its graphs; a simulated one loads none. */
export async function ensureGraphs(
  source: ModelSource,
  provider: string,
  graphs: readonly Graph[],
  log: (message: string, facts: Readonly<Record<string, unknown>>) => void,
): Promise<void> {
  if (provider === "simulated") return;
  let toldMs = performance.now();
  const ranges = graphs.flatMap(({ weights }) => weights);
  await source.ensure(ranges, ({ doneBytes, totalBytes }) => {
    const nowMs = performance.now();
    if (nowMs - toldMs < LOG_MS) return;
    toldMs = nowMs;
    log("fetching weights", { doneBytes, totalBytes });
  });
}
