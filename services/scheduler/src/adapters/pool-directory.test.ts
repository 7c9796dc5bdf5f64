import { describe, expect, test } from "vitest";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue, WatchEvent } from "@fluxline/platform/bus/key-value.ts";
import { createLog } from "@fluxline/platform/log.ts";
import { Heartbeat } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { PoolRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { GROUP_SILENCE_MS, GROUPS_PER_POOL_MAX } from "../core/limits.ts";
import { PoolDirectory } from "./pool-directory.ts";

/** A directory that hears what the test tells it. */
function directoryOf(configured: string[]) {
  let tell: (event: WatchEvent) => void = () => {};
  let hear: (error: null, message: object) => void = () => {};
  let nowMs = 0;
  const kv: Pick<KeyValue, "watch"> = {
    watch: (_filter, onEvent) => {
      tell = onEvent;
      return { stop: async () => {} } as ReturnType<KeyValue["watch"]>;
    },
  };
  const subscribe = (_subject: string, { callback }: { callback: typeof hear }) => {
    hear = callback;
  };
  const pools: string[] = [];
  const directory = new PoolDirectory({
    bus: { connection: { subscribe } } as unknown as Bus,
    kv: kv as KeyValue,
    clock: { nowMs: () => nowMs, monotonicMs: () => nowMs },
    log: createLog("test", "silent"),
    configured,
    onPool: (pool) => pools.push(pool),
  });
  return {
    directory,
    pools,
    pass: (ms: number) => {
      nowMs += ms;
    },
    record: (pool: string) => {
      const value = PoolRecord.encode(PoolRecord.fromPartial({ pool, profile: {} })).finish();
      tell({ kind: "put", key: pool, stored: { value, revision: 1 } });
    },
    beat: (group: string) => {
      const data = Heartbeat.encode(Heartbeat.fromPartial({ pool: "a", group })).finish();
      hear(null, { data, subject: `fl.v1.a.${group}.heartbeat` });
    },
  };
}

describe("the pools that are there", () => {
  test("are those that may be served: a record of another is as if it were not", () => {
    const { directory, pools, record } = directoryOf(["a"]);
    record("a");
    record("left-over");
    expect(directory.list().map(({ pool }) => pool)).toEqual(["a"]);
    expect(directory.resolve("pool", "").pool).toBe("a");
    expect(() => directory.resolve("pool", "left-over")).toThrow(
      /no pool "left-over": use one of a/,
    );
    expect(pools).toEqual(["a"]);
  });

  test("are all when none is named in the settings", () => {
    const { directory, record } = directoryOf([]);
    for (const pool of ["b", "a"]) record(pool);
    expect(directory.list().map(({ pool }) => pool)).toEqual(["a", "b"]);
    expect(() => directory.resolve("pool", "")).toThrow(/is empty; use one of a, b/);
  });
});

test("groups that are known go on being heard when no more can become known", () => {
  const { directory, pass, beat } = directoryOf([]);
  const groups = Array.from({ length: GROUPS_PER_POOL_MAX + 1 }, (_, i) => `g${i}`);
  for (const group of groups) beat(group);
  expect(directory.groups("a")).toBe(GROUPS_PER_POOL_MAX);
  pass(GROUP_SILENCE_MS);
  for (const group of groups) beat(group);
  pass(1);
  expect(directory.groups("a")).toBe(GROUPS_PER_POOL_MAX);
});
