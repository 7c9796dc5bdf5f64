/**
 * `fluxline model pull`, `list`, `remove` and `verify`: the cache of models that come from a hub; and
 * how `up` and `generate` fetch theirs before they start.
 */
import { statSync } from "node:fs";
import { parseModelReference } from "@fluxline/kernel/model-reference.ts";
import { exitCode, type ExitCode } from "../exit-code.ts";
import { checkValues } from "../failure.ts";
import { printLine, type Session } from "../session.ts";
import { askGpuNode, type GpuNodeEvent } from "../stack/gpu-node-question.ts";
import { byteText } from "../view/byte-text.ts";
import {
  type CachedModel,
  describeFiles,
  describeList,
  describePulled,
  type ModelList,
} from "../view/cache-view.ts";
import { type FetchView, openFetchView } from "../view/fetch-view.ts";

export interface ModelOptions {
  readonly revision?: string;
  readonly json: boolean;
}

export interface PullOptions extends ModelOptions {
  readonly needed?: boolean;
  readonly stages?: number;
  readonly rank?: number;
  readonly cuts?: string;
  readonly place?: string;
}

export async function pullModel(
  model: string,
  options: PullOptions,
  session: Session,
): Promise<ExitCode> {
  const args = ["pull", ...modelArguments(model, options)];
  if (options.needed === true) args.push("--needed");
  for (const name of ["stages", "rank", "cuts", "place"] as const) {
    if (options[name] !== undefined) args.push(`--${name}`, String(options[name]));
  }
  const answer = await watched<CachedModel>("fetching", args, options.json, session);
  const { stdout } = session;
  if (options.json) printLine(stdout, JSON.stringify({ event: "pulled", ...answer }));
  else printLine(stdout, describePulled(answer));
  return exitCode.ok;
}

export async function verifyModel(
  model: string,
  options: ModelOptions,
  session: Session,
): Promise<ExitCode> {
  const args = ["verify", ...modelArguments(model, options)];
  const answer = await watched<CachedModel>("verifying", args, options.json, session);
  const { stdout } = session;
  if (options.json) printLine(stdout, JSON.stringify({ event: "verified", ...answer }));
  else printLine(stdout, describeFiles(answer));
  return exitCode.ok;
}

export async function listModels({ json }: ModelOptions, session: Session): Promise<ExitCode> {
  const answer = await askGpuNode<ModelList>(["list"], session);
  printLine(session.stdout, json ? JSON.stringify(answer) : describeList(answer, Date.now()));
  return exitCode.ok;
}

export async function removeModel(
  model: string,
  options: ModelOptions,
  session: Session,
): Promise<ExitCode> {
  const args = ["remove", ...modelArguments(model, options)];
  const answer = await askGpuNode<{ removed: string[]; bytes: number }>(args, session);
  const text = [
    ...answer.removed.map((name) => `removed ${name}`),
    `${byteText(answer.bytes)} given back`,
  ].join("\n");
  printLine(session.stdout, options.json ? JSON.stringify(answer) : text);
  return exitCode.ok;
}

/**
 * What is passed to the processes that run it: a folder as it is; a model of a hub pinned to its
 * commit, when all that they need of it is here.
 */
export async function fetchedModel(
  model: string,
  session: Session,
  json: boolean,
): Promise<string> {
  const isFolder = statSync(model, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const reference = await checkValues(() => parseModelReference(model, isFolder));
  if (reference.kind === "folder") return model;
  const args = ["pull", "--model", model, "--needed"];
  const answer = await watched<CachedModel>("fetching", args, json, session);
  return answer.model;
}

function modelArguments(model: string, { revision }: ModelOptions): string[] {
  return ["--model", model, ...(revision === undefined ? [] : ["--revision", revision])];
}

/** Asks, and shows the progress meanwhile. */
async function watched<T>(
  what: string,
  args: readonly string[],
  json: boolean,
  session: Session,
): Promise<T> {
  const view = await openFetchView(what, session, json);
  try {
    const onEvent = (event: GpuNodeEvent) => show(event, view);
    return await askGpuNode<T>(args, session, { onEvent });
  } finally {
    view.end();
  }
}

function show(event: GpuNodeEvent, view: FetchView): void {
  switch (event["event"]) {
    case "opened":
      return view.note(`model ${String(event["model"])}`);
    case "note":
      return view.note([event["message"], event["model"]].filter(Boolean).join(": "));
    case "progress":
      return view.progress(Number(event["doneBytes"]), Number(event["totalBytes"]));
  }
}
