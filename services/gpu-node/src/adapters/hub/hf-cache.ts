/**
 * The cache of the hub's own programs, which we only read: which commit a revision was, and where a
 * file of a commit lies. A file is there whole or not at all: it gets its name when it is complete.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { isCommit } from "@fluxline/kernel/model-reference.ts";

export class HfCache {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async readRef(repository: string, revision: string): Promise<string | undefined> {
    const file = join(this.#repository(repository), "refs", ...revision.split("/"));
    const text = await readFile(file, "utf8").catch(() => "");
    return isCommit(text.trim()) ? text.trim() : undefined;
  }

  snapshot(repository: string, commit: string): string {
    return join(this.#repository(repository), "snapshots", commit);
  }

  /** Its path, if it is there and of that size. */
  async file(
    repository: string,
    commit: string,
    path: string,
    size: number,
  ): Promise<string | undefined> {
    const file = join(this.snapshot(repository, commit), path);
    const found = await stat(file).catch(() => undefined);
    return found?.isFile() && found.size === size ? file : undefined;
  }

  #repository(repository: string): string {
    return join(this.#folder, `models--${repository.replace("/", "--")}`);
  }
}
