/**
 * Where things lie in our cache. The model's folder is in diffusers layout and is named like the
 * model; what we know of it lies beside it, never inside.
 *
 *   hub/<org>--<name>/refs/<revision>              the commit that it was when it was last asked for
 *   hub/<org>--<name>/<commit>/<name>/             the model
 *   hub/<org>--<name>/<commit>/state/listing.json  files of the commit, as the hub lists them
 *                                    weights/      manifests
 *                                    locks/        one for each weight file
 *                                    uses/         marks of living processes
 *                                    last-use      its time is when it was last used
 *   hub/<org>--<name>/<commit>.lock                held while files are made or the commit is removed
 */
import { join } from "node:path";

export const REMOVED_PREFIX = ".removed-";

export interface CommitPlace {
  /** `org/name`. */
  readonly repository: string;
  readonly commit: string;
  /** All of the commit. */
  readonly root: string;
  readonly modelFolder: string;
  readonly listingFile: string;
  readonly weightsFolder: string;
  readonly locksFolder: string;
  readonly usesFolder: string;
  readonly lastUseFile: string;
  readonly lockFile: string;
}

export function repositoryFolder(cacheFolder: string, repository: string): string {
  return join(cacheFolder, repository.replace("/", "--"));
}

/** The repository of a folder's name; undefined: it is none of ours. */
export function repositoryOf(folderName: string): string | undefined {
  const [organisation, name, ...rest] = folderName.split("--");
  const isOurs = organisation !== undefined && name !== undefined && rest.length === 0;
  return isOurs ? `${organisation}/${name}` : undefined;
}

export function refsFolder(cacheFolder: string, repository: string): string {
  return join(repositoryFolder(cacheFolder, repository), "refs");
}

export function refFile(cacheFolder: string, repository: string, revision: string): string {
  return join(refsFolder(cacheFolder, repository), encodeURIComponent(revision));
}

export function commitPlace(cacheFolder: string, repository: string, commit: string): CommitPlace {
  const root = join(repositoryFolder(cacheFolder, repository), commit);
  const state = join(root, "state");
  return {
    repository,
    commit,
    root,
    modelFolder: join(root, repository.split("/")[1]!),
    listingFile: join(state, "listing.json"),
    weightsFolder: join(state, "weights"),
    locksFolder: join(state, "locks"),
    usesFolder: join(state, "uses"),
    lastUseFile: join(state, "last-use"),
    lockFile: `${root}.lock`,
  };
}

/** A path inside the repository as one file name. */
export function flatName(path: string): string {
  return encodeURIComponent(path);
}
