import { describe, expect, test } from "vitest";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import type { KeyValue, WatchEvent } from "@fluxline/platform/bus/key-value.ts";
import type { Objects } from "@fluxline/platform/bus/object-store.ts";
import type { CallContext } from "@fluxline/platform/grpc/server.ts";
import { createLog } from "@fluxline/platform/log.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";
import { JobRecord, ModelProfile } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import {
  CreateImageJobRequest,
  type ListImageJobsRequest,
  ListImageJobsResponse,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import { JobMirror } from "../job-mirror.ts";
import type { PoolDirectory } from "../pool-directory.ts";
import { ImageServiceHandlers } from "./image-service.ts";
import type { LeaderClient } from "../leader-client.ts";

const profile = ModelProfile.fromPartial({
  digest: "d",
  sizeMultiple: 16,
  minSize: 16,
  maxSize: 128,
  maxPixels: 16_384n,
  defaultWidth: 64,
  defaultHeight: 64,
  minSteps: 1,
  maxSteps: 50,
  defaultSteps: 4,
  guidanceEmbedded: true,
  defaultGuidance: 3.5,
  maxGuidance: 100,
  defaultMaxSequenceLength: 64,
  maxSequenceLengthMax: 512,
  maxImageCount: 4,
  maxPromptBytes: 16_384,
});
const call = { signal: new AbortController().signal } as CallContext;

/** The service over a store in memory; its leader records at once, unless it is to be silent. */
class Service {
  readonly handlers;
  readonly records = new Map<string, { value: Uint8Array; revision: number }>();
  readonly cancelled: string[] = [];
  readonly admitted: JobRecord[] = [];
  silent = false;
  profile = profile;
  #revision = 0;

  constructor() {
    let tell: (event: WatchEvent) => void = () => {};
    const kv: Pick<KeyValue, "watch" | "get"> = {
      get: async (key) => this.records.get(key),
      watch: (_filter, onEvent) => {
        tell = onEvent;
        return { stop: async () => {} } as ReturnType<KeyValue["watch"]>;
      },
    };
    const connection = { subscribe: () => ({ isClosed: () => true }) };
    const bus = { connection, connected: true } as unknown as Bus;
    const log = createLog("test", "silent");
    const leader: Pick<LeaderClient, "admit" | "cancel"> = {
      admit: async (record) => {
        this.admitted.push(record);
        if (this.silent) {
          throw new AppError("unavailable", "no answer", { reason: "LEADER_SILENT" });
        }
        const arrival = BigInt(this.admitted.length);
        const wire = JobRecord.fromPartial({ ...record, state: 1, arrival });
        const stored = { value: JobRecord.encode(wire).finish(), revision: ++this.#revision };
        const key = `p.default.${record.id}`;
        this.records.set(key, stored);
        tell({ kind: "put", key, stored });
        return { ...stored, created: true };
      },
      cancel: async (_pool, _tenant, id) => {
        this.cancelled.push(id);
        throw new AppError("not_found", "no such job");
      },
    };
    const pools: Pick<PoolDirectory, "resolve"> = {
      resolve: () => ({ pool: "p", profile: this.profile, simulated: false }),
    };
    this.handlers = new ImageServiceHandlers({
      bus,
      jobs: kv as KeyValue,
      results: {} as Objects,
      mirror: new JobMirror(bus, kv as KeyValue, log),
      pools: pools as PoolDirectory,
      leader: leader as LeaderClient,
      queuedJobsMax: 10,
      clock: realClock,
      log,
    }).handlers();
  }

  create(spec: object, requestId = "") {
    const request = CreateImageJobRequest.fromPartial({
      spec: { prompt: "p", ...spec },
      requestId,
    });
    return this.handlers.createImageJob(request, call);
  }

  list(request: Partial<ListImageJobsRequest>) {
    const all = { pool: "p", pageSize: 0, pageToken: "", states: [], ...request };
    return this.handlers.listImageJobs(all, call);
  }
}

async function refusal(work: Promise<unknown>): Promise<AppError> {
  return work.then(() => expect.unreachable("it was not refused"), toAppError);
}

const requestId = "0f8fad5b-d9cb-469f-a165-70867728950e";

describe("a list", () => {
  test.each([["abc"], ["-1"], ["1e3"], [""], ["9".repeat(30)]])(
    "a page token made by hand with %j is refused as one",
    async (after) => {
      const pageToken = Buffer.from(JSON.stringify(["jobs/p/", after])).toString("base64url");
      const error = await refusal(new Service().list({ pageToken }));
      expect(error).toMatchObject({ code: "invalid_argument", reason: "INVALID_PAGE_TOKEN" });
    },
  );

  test("ends a page before clients refuse it for its size, and goes on after it", async () => {
    const service = new Service();
    const names: string[] = [];
    for (let i = 0; i < 150; i++) {
      const prompt = "x".repeat(16_000);
      names.unshift((await service.create({ prompt, prompt2: "y" })).name);
    }
    const listed: string[] = [];
    let pageToken = "";
    let pages = 0;
    do {
      const page = await service.list({ pageSize: 1_000, pageToken });
      expect(ListImageJobsResponse.encode(page).finish().length).toBeLessThan(2.2 * 1024 * 1024);
      listed.push(...page.jobs.map((job) => job.name));
      pageToken = page.nextPageToken;
      pages += 1;
    } while (pageToken !== "" && pages < 10);
    expect(listed).toEqual(names);
    expect(pages).toBe(2);
  });
});

describe("a repeat of a request", () => {
  test("finds the first one's job, also when it would no longer be valid", async () => {
    const service = new Service();
    const spec = { prompt: "p", width: 128, expireTime: new Date(Date.now() + 50) };
    const { name } = await service.create(spec, requestId);
    await new Promise((resolve) => setTimeout(resolve, 60));
    service.profile = { ...profile, maxSize: 64 };
    expect((await service.create(spec, requestId.toUpperCase())).name).toBe(name);
    expect(service.admitted).toHaveLength(1);
    const error = await refusal(service.create({ prompt: "other" }, requestId));
    expect(error).toMatchObject({ code: "already_exists", reason: "REQUEST_ID_REUSED" });
  });
});

test("a record that cannot be read is not said to be missing", async () => {
  const service = new Service();
  service.records.set("p.default.job1", { value: new Uint8Array([0x12, 0x7f]), revision: 1 });
  const work = service.handlers.getImageJob({ name: "pools/p/jobs/job1" }, call);
  expect(await refusal(work)).toMatchObject({ code: "data_loss", reason: "UNREADABLE_RECORD" });
});

describe("an admission whose answer does not come", () => {
  test("is cancelled: nobody could ask for the job again", async () => {
    const service = new Service();
    service.silent = true;
    expect((await refusal(service.create({}))).reason).toBe("LEADER_SILENT");
    expect(service.cancelled).toEqual([service.admitted[0]?.id]);
  });

  test("is left alone with a request_id: asking again finds it", async () => {
    const service = new Service();
    service.silent = true;
    expect((await refusal(service.create({}, requestId))).reason).toBe("LEADER_SILENT");
    expect(service.cancelled).toEqual([]);
  });
});
