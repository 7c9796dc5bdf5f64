/**
 * Says that a process uses a commit of the cache, so that nobody evicts it, and how many bytes it is
 * about to store. A mark is a file whose time is kept fresh; one that is old is of a dead process.
 */
import { randomUUID } from "node:crypto";
import { unlinkSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import type { CommitPlace } from "./cache-layout.ts";

const HEARTBEAT_MS = 5_000;
/** Far above the heartbeat: a mark that is taken for dead costs a download, one for alive little. */
const STALE_MS = 60_000;

const schema = z.object({
  pid: z.number(),
  host: z.string(),
  pendingBytes: z.number().nonnegative(),
});

export interface Use extends z.infer<typeof schema> {
  readonly id: string;
}

const marks = new Set<UseMark>();
process.on("exit", () => {
  for (const mark of marks) mark.endNow();
});

export class UseMark {
  readonly id = randomUUID();
  readonly #place: CommitPlace;
  readonly #file: string;
  #timer: NodeJS.Timeout | undefined;

  private constructor(place: CommitPlace) {
    this.#place = place;
    this.#file = join(place.usesFolder, this.id);
  }

  /** Under the commit's lock, so that it is not being removed. */
  static async begin(place: CommitPlace): Promise<UseMark> {
    await mkdir(place.usesFolder, { recursive: true });
    const mark = new UseMark(place);
    await mark.pending(0);
    await touch(place.lastUseFile);
    mark.#timer = setInterval(() => void mark.#beat(), HEARTBEAT_MS);
    mark.#timer.unref();
    marks.add(mark);
    return mark;
  }

  /** Says how much this process is about to store. */
  async pending(pendingBytes: number): Promise<void> {
    const draft = `${this.#file}.draft`;
    const use = { pid: process.pid, host: hostname(), pendingBytes };
    await writeFile(draft, JSON.stringify(use));
    await rename(draft, this.#file);
  }

  /** Synchronous, so that it works at the end of a process too. Safe to call twice. */
  endNow(): void {
    clearInterval(this.#timer);
    if (!marks.delete(this)) return;
    try {
      unlinkSync(this.#file);
    } catch (thrown) {
      // Taken for dead and removed, with or without the model.
      if ((thrown as NodeJS.ErrnoException).code !== "ENOENT") throw thrown;
    }
  }

  async #beat(): Promise<void> {
    const now = new Date();
    // Taken for dead and removed: the files that are open stay readable.
    await utimes(this.#file, now, now).catch(() => undefined);
    await utimes(this.#place.lastUseFile, now, now).catch(() => undefined);
  }
}

/** Who uses it now; marks of the dead are removed. */
export async function livingUses({ usesFolder }: CommitPlace): Promise<readonly Use[]> {
  const names = await readdir(usesFolder).catch(() => []);
  const uses: Use[] = [];
  for (const id of names) {
    const file = join(usesFolder, id);
    const found = await stat(file).catch(() => undefined);
    if (found === undefined) continue;
    if (Date.now() - found.mtimeMs > STALE_MS) {
      await rm(file, { force: true });
      continue;
    }
    if (id.endsWith(".draft")) continue;
    const text = await readFile(file, "utf8").catch(() => "");
    if (text !== "") uses.push({ id, ...schema.parse(JSON.parse(text)) });
  }
  return uses;
}

async function touch(file: string): Promise<void> {
  await writeFile(file, "");
}
