/** What `fluxline model pull`, `list` and `verify` show of the GPU node's answers. */
import { byteText } from "./byte-text.ts";
import { durationText } from "./pace.ts";
import { textTable } from "./text-table.ts";

/** As the GPU node's program prints it. */
export interface CachedModel {
  readonly model: string;
  readonly folder: string;
  readonly files: readonly {
    readonly path: string;
    readonly size: number;
    readonly presentBytes: number;
    readonly state: "verified" | "whole" | "part";
  }[];
}

export interface ModelList {
  readonly cache: string;
  readonly bytesMax?: number;
  readonly models: readonly {
    readonly model: string;
    readonly commit: string;
    readonly revisions: readonly string[];
    readonly bytes: number;
    readonly lastUseMs: number;
    readonly uses: readonly { readonly pid: number; readonly host: string }[];
    readonly folder: string;
  }[];
}

const shownCommitLength = 12;

export function describePulled(answer: CachedModel): string {
  const { model, folder, files } = answer;
  const present = files.reduce((sum, { presentBytes }) => sum + presentBytes, 0);
  const size = files.reduce((sum, file) => sum + file.size, 0);
  const much =
    present === size ? byteText(size) : `${byteText(present)} of ${byteText(size)}, as asked for`;
  return [`model   ${model}`, `folder  ${folder}`, `here    ${much}`].join("\n");
}

export function describeFiles(answer: CachedModel): string {
  const rows = answer.files.map(({ path, size, presentBytes, state }) => [
    path,
    byteText(size),
    state === "part" ? `${byteText(presentBytes)} of it here, not verified` : stateText(state),
  ]);
  const parts = answer.files.filter(({ state }) => state === "part").length;
  const verified = answer.files.filter(({ state }) => state === "verified").length;
  const rest =
    parts === 0 ? "" : `; ${parts} are here in part: fluxline model pull fetches them whole`;
  return [
    `model   ${answer.model}`,
    `folder  ${answer.folder}`,
    "",
    textTable(["file", "size", "state"], rows),
    "",
    `${verified} of ${answer.files.length} files verified${rest}`,
  ].join("\n");
}

function stateText(state: "verified" | "whole"): string {
  return state === "verified" ? "verified" : "whole; the hub gives no digest of it";
}

export function describeList({ cache, bytesMax, models }: ModelList, nowMs: number): string {
  const sum = models.reduce((total, { bytes }) => total + bytes, 0);
  const limit = bytesMax === undefined ? "no limit" : `limit ${byteText(bytesMax)}`;
  const total = `cache  ${cache}, ${byteText(sum)}, ${limit}`;
  if (models.length === 0) return `${total}\nempty; fluxline model pull ORG/NAME fetches a model`;
  const rows = models.map(({ model, commit, revisions, bytes, lastUseMs, uses }) => [
    model,
    commit.slice(0, shownCommitLength),
    revisions.join(", ") || "-",
    byteText(bytes),
    `${durationText(Math.max(0, nowMs - lastUseMs))} ago`,
    uses.length === 0 ? "no" : uses.map(({ pid, host }) => `${pid} on ${host}`).join(", "),
  ]);
  const head = ["model", "commit", "revisions", "on disk", "last used", "in use by process"];
  return [textTable(head, rows), "", total].join("\n");
}
