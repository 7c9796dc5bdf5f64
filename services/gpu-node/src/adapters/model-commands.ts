/**
 * What the command line asks of the cache of models: pull, list, remove, verify. Each answers with
 * one object; what takes long tells its progress meanwhile.
 */
import { AppError, invalidArgument, toAppError } from "@fluxline/kernel/error.ts";
import {
  DEFAULT_REVISION,
  type HubReference,
  isCommit,
  parseModelReference,
} from "@fluxline/kernel/model-reference.ts";
import type { Checkpoint } from "../core/checkpoint.ts";
import type { FileRange } from "../core/image-model.ts";
import { componentsAt, planStages } from "../core/stage-plan.ts";
import { modelGraphs, modelLayout } from "../models/families.ts";
import { openCheckpoint } from "./checkpoint-folder.ts";
import { type CachedFile, cachedFiles, verifyFiles } from "./hub/cached-files.ts";
import { CacheStore, type StoredCommit } from "./hub/cache-store.ts";
import type { FetchProgress } from "./hub/fetch-tally.ts";
import { HubModel } from "./hub/hub-model.ts";
import type { Environment } from "./cache-folder.ts";
import { type HubSettings, hubSettings } from "./hub/hub-settings.ts";
import type { Use } from "./hub/use-mark.ts";
import { isFolder } from "./model-source.ts";
import { OptionReader, readCuts, readPlaces } from "./stage-options.ts";

export interface CommandContext {
  readonly environment: Environment;
  readonly signal: AbortSignal;
  readonly say: (event: object) => void;
}

/** `org/name@commit`, where it lies, and what is there of it. */
export interface ModelAnswer {
  readonly model: string;
  readonly folder: string;
  readonly files: readonly CachedFile[];
}

const PULL_OPTIONS = {
  model: { type: "string" },
  revision: { type: "string" },
  needed: { type: "boolean", default: false },
  stages: { type: "string", default: "1" },
  rank: { type: "string" },
  cuts: { type: "string" },
  place: { type: "string" },
} as const;

const STAGES_MAX = 64;

export async function pullModel(
  argv: readonly string[],
  { environment, signal, say }: CommandContext,
): Promise<ModelAnswer> {
  const reader = new OptionReader(argv, PULL_OPTIONS);
  const reference = hubReference(
    reader.required("model", "give org/name"),
    reader.text("revision"),
  );
  const stages = reader.whole("stages", { max: STAGES_MAX });
  const given = reader.text("rank");
  const rank = given === undefined ? undefined : reader.whole("rank", { min: 0, max: stages - 1 });
  const plan = { stages, cuts: readCuts(reader), places: readPlaces(reader) };
  reader.finish();
  const settings = hubSettings(environment);
  const log = (message: string, facts: object): void => say({ event: "note", message, ...facts });
  const model = await HubModel.open(reference, { settings, signal, log });
  say({ event: "opened", model: model.name, folder: model.folder });
  const onProgress = (progress: FetchProgress): void => say({ event: "progress", ...progress });
  if (rank === undefined && !reader.flag("needed")) {
    await model.ensureWhole(onProgress);
  } else {
    await model.ensureHeaders(onProgress);
    const checkpoint = await openCheckpoint(model.folder);
    await model.ensure(neededRanges(checkpoint, plan, rank), onProgress);
  }
  const { name, folder } = model;
  return { model: name, folder, files: await cachedFiles(model) };
}

/** Of the graphs of one rank, or of all of them. */
function neededRanges(
  checkpoint: Checkpoint,
  request: Parameters<typeof planStages>[1],
  rank: number | undefined,
): readonly FileRange[] {
  const layout = modelLayout(checkpoint);
  const plan = planStages(layout, request);
  const ranks = rank === undefined ? [...plan.stages.keys()] : [rank];
  return ranks.flatMap((one) => {
    const beside = [
      ...componentsAt(layout, plan, one),
      ...(one === 0 ? componentsAt(layout, plan, "cpu") : []),
    ];
    const selection = { stage: plan.stages[one], components: beside.map(({ name }) => name) };
    const graphs = modelGraphs(checkpoint, { runType: "float32" }, selection);
    return graphs.flatMap(({ weights }) => weights);
  });
}

export interface ListedModel {
  readonly model: string;
  readonly commit: string;
  readonly revisions: readonly string[];
  readonly bytes: number;
  readonly lastUseMs: number;
  readonly uses: readonly Use[];
  readonly folder: string;
}

export async function listModels(environment: Environment): Promise<{
  readonly cache: string;
  readonly bytesMax: number | undefined;
  readonly models: readonly ListedModel[];
}> {
  const settings = hubSettings(environment);
  const store = new CacheStore(settings);
  const models = await Promise.all(
    (await store.commits()).map(async ({ place, bytes, lastUseMs, uses }): Promise<ListedModel> => {
      const { repository: model, commit, modelFolder: folder } = place;
      const revisions = (await store.refs(model)).get(commit) ?? [];
      return { model, commit, revisions, bytes, lastUseMs, uses, folder };
    }),
  );
  models.sort((a, b) => b.lastUseMs - a.lastUseMs);
  return { cache: settings.cacheFolder, bytesMax: settings.cacheBytesMax, models };
}

export async function removeModel(
  argv: readonly string[],
  environment: Environment,
): Promise<{ removed: readonly string[]; bytes: number }> {
  const { reference, settings } = readReference(argv, environment);
  const store = new CacheStore(settings);
  const found = await matching(store, reference);
  if (found.length === 0) throw notCached(reference, settings);
  const removed: string[] = [];
  let bytes = 0;
  for (const stored of found) {
    const uses = await store.remove(stored.place);
    const name = `${stored.place.repository}@${stored.place.commit}`;
    if (uses.length > 0) throw inUseError(name, uses);
    removed.push(name);
    bytes += stored.bytes;
  }
  return { removed, bytes };
}

export async function verifyModel(
  argv: readonly string[],
  { environment, signal, say }: CommandContext,
): Promise<ModelAnswer> {
  const { reference, settings } = readReference(argv, environment);
  const store = new CacheStore(settings);
  // What is in the cache is verified: the hub may have moved on.
  const found = await matching(store, reference);
  const newest = found.toSorted((a, b) => b.lastUseMs - a.lastUseMs)[0];
  const revision = newest?.place.commit ?? reference.revision;
  const offline = { ...settings, isOffline: true };
  const options = { settings: offline, signal, log: () => undefined };
  const model = await HubModel.open({ ...reference, revision }, options).catch((thrown) => {
    throw toAppError(thrown).reason === "HUB_OFFLINE" ? notCached(reference, settings) : thrown;
  });
  const onProgress = throttled((progress) => say({ event: "progress", ...progress }));
  const files = await verifyFiles(model, settings, onProgress);
  return { model: model.name, folder: model.folder, files };
}

/** Commits of ours that a reference means: that of its revision, or all. */
async function matching(
  store: CacheStore,
  { repository, revision }: HubReference,
): Promise<readonly StoredCommit[]> {
  const commits = (await store.commits()).filter(({ place }) => place.repository === repository);
  if (revision === undefined) return commits;
  const commit = isCommit(revision) ? revision : await store.readRef(repository, revision);
  return commits.filter(({ place }) => place.commit === commit);
}

function readReference(
  argv: readonly string[],
  environment: Environment,
): { reference: HubReference; settings: HubSettings } {
  const { model, revision } = PULL_OPTIONS;
  const reader = new OptionReader(argv, { model, revision });
  const name = reader.required("model", "give org/name");
  reader.finish();
  const reference = hubReference(name, reader.text("revision"));
  return { reference, settings: hubSettings(environment) };
}

function hubReference(text: string, revision: string | undefined): HubReference {
  const parsed = parseModelReference(text, isFolder(text));
  if (parsed.kind === "folder") {
    const where = isFolder(text)
      ? "a folder of this machine, which has"
      : "a path, and a folder has";
    const description = `"${text}" is ${where} all of its model; name one of a hub, like org/name`;
    throw invalidArgument([{ field: "model", description }], "INVALID_MODEL");
  }
  if (revision === undefined) return parsed;
  if (parsed.revision !== undefined && parsed.revision !== revision) {
    const description = `is "${revision}" beside ${text}; give one of them`;
    throw invalidArgument([{ field: "--revision", description }], "INVALID_MODEL");
  }
  return parseModelReference(`${parsed.repository}@${revision}`, false) as HubReference;
}

function notCached({ repository, revision }: HubReference, settings: HubSettings): AppError {
  const what = `${repository}@${revision ?? DEFAULT_REVISION}`;
  const message =
    `${what} is not in the cache ${settings.cacheFolder}; fluxline model list shows what is ` +
    "(models in HF_HOME are removed by the hub's own programs)";
  return new AppError("not_found", message, { reason: "MODEL_NOT_CACHED" });
}

function inUseError(name: string, uses: readonly Use[]): AppError {
  const who = uses.map(({ pid, host }) => `process ${pid} on ${host}`).join(", ");
  const message = `${name} is in use by ${who}; stop it first, then remove the model`;
  return new AppError("failed_precondition", message, { reason: "MODEL_IN_USE" });
}

const TELL_MS = 200;

function throttled(tell: (progress: FetchProgress) => void): (progress: FetchProgress) => void {
  let toldMs = 0;
  return (progress) => {
    const nowMs = performance.now();
    if (nowMs - toldMs < TELL_MS && progress.doneBytes < progress.totalBytes) return;
    toldMs = nowMs;
    tell(progress);
  };
}
