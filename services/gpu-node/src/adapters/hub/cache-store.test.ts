import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { toAppError } from "@fluxline/kernel/error.ts";
import type { CommitPlace } from "./cache-layout.ts";
import { CacheStore, diskError } from "./cache-store.ts";
import { FETCH_LIMITS, type HubSettings, hubSettings } from "./hub-settings.ts";
import { livingUses, UseMark } from "./use-mark.ts";

const KIB = 1024;
let home = "";
const marks: UseMark[] = [];
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "fluxline-store-"));
});
afterEach(() => {
  for (const mark of marks.splice(0)) mark.endNow();
  rmSync(home, { recursive: true, force: true });
});

function settings(more: Partial<HubSettings> = {}): HubSettings {
  const limits = { ...FETCH_LIMITS, spareBytes: 0 };
  return { ...hubSettings({ FLUXLINE_CACHE: home }, limits), ...more };
}

const commitOf = (digit: string): string => digit.repeat(40);

/** A commit of so many KiB, last used so many seconds ago. */
function stored(digit: string, kib: number, agoSeconds: number): CommitPlace {
  const place = new CacheStore(settings()).place("org/name", commitOf(digit));
  mkdirSync(place.modelFolder, { recursive: true });
  mkdirSync(place.usesFolder, { recursive: true });
  writeFileSync(join(place.modelFolder, "weights"), Buffer.alloc(kib * KIB, 1));
  writeFileSync(place.lastUseFile, "");
  const time = Date.now() / 1000 - agoSeconds;
  utimesSync(place.lastUseFile, time, time);
  return place;
}

async function use(place: CommitPlace): Promise<UseMark> {
  const mark = await UseMark.begin(place);
  marks.push(mark);
  return mark;
}

describe("room within FLUXLINE_CACHE_MAX", () => {
  test("is made from what was not used for longest, whole, and never from what is in use", async () => {
    const [oldest, older, old] = [
      stored("a", 400, 300),
      stored("b", 400, 200),
      stored("c", 400, 9),
    ];
    await use(oldest);
    const store = new CacheStore(settings({ cacheBytesMax: 1300 * KIB }));
    await store.writeRef("org/name", "v1", older.commit);
    expect(await store.makeRoom("org/new", 300 * KIB, "me")).toEqual([`org/name@${older.commit}`]);
    expect([oldest, older, old].map(({ root }) => existsSync(root))).toEqual([true, false, true]);
    expect(await store.readRef("org/name", "v1")).toBeUndefined();
  });

  test("counts what others are about to store", async () => {
    const place = stored("a", 10, 5);
    const mark = await use(place);
    await mark.pending(900 * KIB);
    const store = new CacheStore(settings({ cacheBytesMax: 1000 * KIB }));
    await expect(store.makeRoom("org/new", 300 * KIB, "me")).rejects.toThrow(/FLUXLINE_CACHE_MAX/);
    // Its own promise is what it asks room for.
    expect(await store.makeRoom("org/name", 900 * KIB, mark.id)).toEqual([]);
  });

  test("cannot be had: the error has the numbers, and nothing is removed", async () => {
    const place = stored("a", 400, 5);
    await use(place);
    const idle = stored("b", 100, 5);
    const store = new CacheStore(settings({ cacheBytesMax: 600 * KIB }));
    const error = toAppError(await store.makeRoom("org/new", 300 * KIB, "me").catch((e) => e));
    expect(error.reason).toBe("CACHE_LIMIT_REACHED");
    for (const part of ["org/new", "300.0 KiB", "600.0 KiB", home]) {
      expect(error.message).toContain(part);
    }
    expect(existsSync(idle.root)).toBe(true);
  });
});

test("a disk that is too full: both numbers, the folder, and what a removal gives back", async () => {
  stored("a", 400, 5);
  const store = new CacheStore(settings());
  const error = toAppError(await store.makeRoom("org/new", 2 ** 60, "me").catch((e) => e));
  expect(error.reason).toBe("CACHE_DISK_FULL");
  expect(error.message).toMatch(/needs 1048576\.0 TiB more in .*hub, where .* are free/);
  expect(error.message).toMatch(/fluxline model remove org\/name gives back 4\d\d\.\d KiB/);
});

test("a cache that cannot be made names its folder and the variable", async () => {
  writeFileSync(join(home, "file"), "");
  const store = new CacheStore(settings({ cacheFolder: join(home, "file/hub") }));
  const error = toAppError(await store.assertWritable().catch((thrown: unknown) => thrown));
  expect(error.reason).toBe("CACHE_NOT_WRITABLE");
  expect(error.message).toContain(join(home, "file/hub"));
  expect(error.message).toContain("FLUXLINE_CACHE");
});

test("a disk that becomes full meanwhile is told as such, other errors as they are", () => {
  const full = Object.assign(new Error("no space"), { code: "ENOSPC" });
  expect(toAppError(diskError(full, "org/name", "/c")).reason).toBe("CACHE_DISK_FULL");
  const other = new Error("other");
  expect(diskError(other, "org/name", "/c")).toBe(other);
});

describe("removing", () => {
  test("a commit in use is refused, by whom it is used", async () => {
    const place = stored("a", 4, 5);
    await use(place);
    const uses = await new CacheStore(settings()).remove(place);
    expect(uses).toMatchObject([{ pid: process.pid }]);
    expect(existsSync(place.root)).toBe(true);
  });

  test("an old mark is of a dead process", async () => {
    const place = stored("a", 4, 5);
    const dead = join(place.usesFolder, "dead");
    writeFileSync(dead, JSON.stringify({ pid: 1, host: "h", pendingBytes: 5 }));
    const long = Date.now() / 1000 - 3600;
    utimesSync(dead, long, long);
    expect(await livingUses(place)).toEqual([]);
    expect(readdirSync(place.usesFolder)).toEqual([]);
    expect(await new CacheStore(settings()).remove(place)).toEqual([]);
    expect(existsSync(place.root)).toBe(false);
  });

  test("what a removal that was cut short has left is swept away", async () => {
    const place = stored("a", 4, 5);
    const left = join(place.root, "../.removed-x/deep");
    mkdirSync(left, { recursive: true });
    await new CacheStore(settings()).sweep("org/name");
    expect(readdirSync(join(place.root, ".."))).toEqual([place.commit]);
  });
});
