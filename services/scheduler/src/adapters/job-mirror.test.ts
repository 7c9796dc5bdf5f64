import { expect, test } from "vitest";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue, WatchEvent } from "@fluxline/platform/bus/key-value.ts";
import { createLog } from "@fluxline/platform/log.ts";
import { ImageSpec } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { buildRecord } from "../core/job-builder.ts";
import { JobMirror } from "./job-mirror.ts";
import { encodeRecord } from "./record-codec.ts";

/** A mirror of a bucket that tells what the test tells it. */
class Bucket {
  readonly mirror: JobMirror;
  revision = 0;
  #tell: (event: WatchEvent) => void = () => {};

  constructor() {
    const kv: Pick<KeyValue, "watch"> = {
      watch: (_filter, onEvent) => {
        this.#tell = onEvent;
        return { stop: async () => {} } as ReturnType<KeyValue["watch"]>;
      },
    };
    const connection = { subscribe: () => ({ isClosed: () => true }) };
    const log = createLog("test", "silent");
    this.mirror = new JobMirror({ connection } as unknown as Bus, kv as KeyValue, log);
  }

  put(id: string, arrival: bigint) {
    const record = buildRecord({ id, arrival, spec: ImageSpec.fromPartial({ prompt: "p" }) });
    const stored = { value: encodeRecord(record), revision: ++this.revision };
    this.#tell({ kind: "put", key: `p.default.${id}`, stored });
    return stored;
  }

  remove(id: string): void {
    this.#tell({ kind: "removed", key: `p.default.${id}`, revision: ++this.revision });
  }

  get listed(): string[] {
    return [...this.mirror.newestFirst("p", undefined)].map((job) => job.record.id);
  }
}

test("jobs are listed newest first, also when told in another order", () => {
  const bucket = new Bucket();
  for (const arrival of [5n, 1n, 4n, 2n, 3n]) bucket.put(`j${arrival}`, arrival);
  expect(bucket.listed).toEqual(["j5", "j4", "j3", "j2", "j1"]);
  const before = [...bucket.mirror.newestFirst("p", 3n)].map((job) => job.record.id);
  expect(before).toEqual(["j2", "j1"]);
});

test("a job that is gone leaves nothing behind, whether or not anybody lists", () => {
  const bucket = new Bucket();
  for (let i = 0; i < 100; i++) {
    bucket.put(`j${i}`, BigInt(i));
    bucket.remove(`j${i}`);
  }
  expect(bucket.mirror.size("p")).toBe(0);
});

test("an id that is used again after its purge is listed once, at its new place", () => {
  const bucket = new Bucket();
  bucket.put("same", 1n);
  bucket.put("other", 2n);
  bucket.remove("same");
  bucket.put("same", 3n);
  expect(bucket.listed).toEqual(["same", "other"]);
});

test("what was read before its removal was heard does not come back", () => {
  const bucket = new Bucket();
  const stored = bucket.put("ghost", 1n);
  bucket.remove("ghost");
  bucket.mirror.absorb("p.default.ghost", stored);
  expect(bucket.mirror.get("p.default.ghost")).toBeUndefined();
  bucket.mirror.absorb("p.default.ghost", { ...stored, revision: bucket.revision + 1 });
  expect(bucket.listed).toEqual(["ghost"]);
});
