/**
 * How a model is named: a local folder, or `org/name[@revision]` of a hub. An existing folder wins;
 * what starts like a path is always a folder, so that a typing mistake in a path is never looked up
 * on the network.
 */
import { type AppError, invalidArgument } from "./error.ts";

export interface HubReference {
  readonly kind: "hub";
  /** `org/name`. */
  readonly repository: string;
  /** A branch, a tag or a commit; undefined: the hub's main branch. */
  readonly revision: string | undefined;
}

export type ModelReference = HubReference | { readonly kind: "folder"; readonly folder: string };

export const DEFAULT_REVISION = "main";
/** The rules of the hub: 1 to 96 of these, no `--` and no `..`, none of `-` and `.` at an end. */
const PART = /^(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$/;
/** What git allows in a name, less what would leave the folder it names. */
const REVISION = /^(?!.*(\.\.|\/\/))[A-Za-z0-9_][A-Za-z0-9._/-]{0,254}$/;
const COMMIT = /^[0-9a-f]{40}$/;

export function isCommit(revision: string | undefined): revision is string {
  return revision !== undefined && COMMIT.test(revision);
}

export function hubReferenceText({ repository, revision }: HubReference): string {
  return revision === undefined ? repository : `${repository}@${revision}`;
}

/**
 * @param folderExists whether `text` names a folder on this machine
 * @throws AppError INVALID_MODEL when it can be neither
 */
export function parseModelReference(text: string, folderExists: boolean): ModelReference {
  if (folderExists || /^[/.~]/.test(text)) return { kind: "folder", folder: text };
  const [name = "", ...revisions] = text.split("@");
  const parts = name.split("/");
  const [revision] = revisions;
  if (parts.length !== 2 || !parts.every((part) => PART.test(part)) || revisions.length > 1) {
    throw notAModel(text);
  }
  if (revision !== undefined && !REVISION.test(revision)) throw notAModel(text);
  return { kind: "hub", repository: name, revision };
}

function notAModel(text: string): AppError {
  const value = text.length <= 120 ? text : `${text.slice(0, 117)}...`;
  const description =
    `"${value}" is no folder here and no name of a model on a hub; give the path of a folder that ` +
    "holds model_index.json, or a name like black-forest-labs/FLUX.1-schnell, with @revision to pin it";
  return invalidArgument([{ field: "model", description }], "INVALID_MODEL");
}
