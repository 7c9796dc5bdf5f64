/**
 * A model of a hub, fetched into a cache of its own from a hub that misbehaves: what comes is the
 * model bit for bit, or an error that says why and what to do, and then nothing wrong is kept.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { cpSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { toAppError } from "@fluxline/kernel/error.ts";
import type { HubReference } from "@fluxline/kernel/model-reference.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { HubModel } from "@fluxline/gpu-node/adapters/hub/hub-model.ts";
import { FETCH_LIMITS, hubSettings } from "@fluxline/gpu-node/adapters/hub/hub-settings.ts";
import type { FetchLimits } from "@fluxline/gpu-node/adapters/hub/hub-settings.ts";
import { openModel } from "@fluxline/gpu-node/adapters/model-source.ts";
import { byteCount } from "@fluxline/gpu-node/core/hub/byte-ranges.ts";
import { type Fault, HubServer, type Repository } from "../support/hub-server.ts";

const tiny = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
const name = "black-forest-labs/flux-tiny";
const WEIGHTS = "transformer/diffusion_pytorch_model.safetensors";
const MIB = 2 ** 20;
const quick = {
  retries: { triesMax: 6, firstDelayMs: 20 },
  firstRetries: { triesMax: 4, firstDelayMs: 20 },
};
/** Small pieces, so that a file of a few MiB takes several; short waits. */
const limits: FetchLimits = {
  ...FETCH_LIMITS,
  pieceBytes: MIB,
  syncBytes: MIB / 4,
  stallMs: 400,
  ...quick,
};

let hub: HubServer;
let repository: Repository;
let model: string;
let home = "";
const opened: HubModel[] = [];

beforeAll(async () => {
  // Without what a published model does not carry.
  const folder = mkdtempSync(join(tmpdir(), "fluxline-hub-"));
  model = join(folder, "flux-tiny");
  cpSync(tiny, model, { recursive: true, filter: (file) => !file.includes("training") });
  hub = await HubServer.start();
  repository = await hub.serve(name, model, { branches: ["v1"] });
});
afterAll(async () => {
  await hub.close();
  rmSync(join(model, ".."), { recursive: true, force: true });
});
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "fluxline-cache-"));
  hub.fail();
  hub.forget();
});
afterEach(() => {
  for (const one of opened.splice(0)) one.close();
  rmSync(home, { recursive: true, force: true });
});

function environment(more: Readonly<Record<string, string>> = {}): Record<string, string> {
  const { endpoint } = hub;
  return { HF_ENDPOINT: endpoint, FLUXLINE_CACHE: home, HF_HOME: join(home, "hf"), ...more };
}

async function open(
  { repository: of = name, revision }: Partial<HubReference> = {},
  more: Readonly<Record<string, string>> = {},
): Promise<HubModel> {
  const settings = hubSettings(environment(more), limits);
  const options = { settings, log: () => undefined };
  const made = await HubModel.open({ kind: "hub", repository: of, revision }, options);
  opened.push(made);
  return made;
}

async function pull(more?: Readonly<Record<string, string>>): Promise<HubModel> {
  const made = await open({}, more);
  await made.ensureWhole();
  return made;
}

function expectSame(folder: string): void {
  const read = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex");
  for (const { path } of repository.files) {
    if (!existsSync(join(folder, path)) && !path.includes("/")) continue; // no part of the model
    expect(read(join(folder, path)), path).toBe(read(join(model, path)));
  }
}

async function reasonOf(work: Promise<unknown>): Promise<{ reason: string; message: string }> {
  try {
    await work;
  } catch (thrown) {
    const { reason, message } = toAppError(thrown);
    return { reason, message };
  }
  return { reason: "none", message: "" };
}

describe("a whole model", () => {
  test("is the folder's copy, opened as a checkpoint of the same digest, each byte fetched once", async () => {
    const made = await pull();
    expectSame(made.folder);
    const [ours, theirs] = [await openCheckpoint(made.folder), await openCheckpoint(model)];
    expect({ digest: ours.digest, name: ours.name }).toEqual({
      digest: theirs.digest,
      name: theirs.name,
    });
    expect(hub.bytesAgain()).toBe(0);
    for (const weights of made.weights) expect((await weights.manifest()).verified).toBe(true);
  });

  test("needs the hub no more, pinned or offline", async () => {
    await pull();
    hub.forget();
    await open({ revision: repository.commit });
    await open({ revision: "main" }, { HF_HUB_OFFLINE: "1" });
    expect(hub.requests).toEqual([]);
  });

  test("is asked for by branch", async () => {
    expect((await open({ revision: "v1" })).commit).toBe(repository.commit);
  });

  test("the token goes to the hub and to no other origin", async () => {
    await pull({ HF_TOKEN: "secret-without-prefix" });
    const by = Object.groupBy(hub.requests, ({ origin }) => origin);
    expect(new Set(by.hub?.map(({ authorization }) => authorization))).toEqual(
      new Set(["Bearer secret-without-prefix"]),
    );
    expect(new Set(by.store?.map(({ authorization }) => authorization))).toEqual(
      new Set([undefined]),
    );
    expect(by.store?.every(({ range }) => range !== undefined)).toBe(true);
  });
});

describe("a hub that recovers gives the model all the same:", () => {
  test.each<[string, Fault[]]>([
    ["connections cut in the middle", [{ on: WEIGHTS, times: 4, cutAfter: 300_000 }]],
    ["connections cut before the first byte", [{ on: WEIGHTS, times: 2, cutAfter: 0 }]],
    ["answers that end early", [{ on: WEIGHTS, times: 2, shortBy: 1000 }]],
    ["silence in the middle", [{ on: WEIGHTS, times: 2, stallAfter: 100_000 }]],
    ["503", [{ on: WEIGHTS, times: 2, status: 503 }]],
    ["503 of the store", [{ on: WEIGHTS, times: 2, at: "store", status: 503 }]],
    ["503 of the API", [{ on: "/api/", times: 2, status: 503 }]],
    ["429 with a wait", [{ on: WEIGHTS, times: 1, status: 429, headers: { "retry-after": "1" } }]],
    ["a small file cut short", [{ on: "vocab.json", times: 1, cutAfter: 100 }]],
    [
      // The first of each of four connections have no address yet.
      "a signed address that ran out",
      [{ on: WEIGHTS, times: 1, after: 8, at: "store", status: 403 }],
    ],
  ])("%s", async (_, faults) => {
    hub.fail(...faults);
    const made = await pull();
    expectSame(made.folder);
    expect(hub.faults.every(({ left }) => left === 0)).toBe(true);
  });

  test("the wait that it asks for is kept", async () => {
    const headers = { "retry-after": "1" };
    hub.fail({ on: "/api/", times: 1, status: 429, headers });
    const begunMs = performance.now();
    await open();
    expect(performance.now() - begunMs).toBeGreaterThan(950);
  });
});

describe("a hub that does not gives an error that says why:", () => {
  test.each<[string, string, string[], Fault[]]>([
    [
      "503 for ever",
      "HUB_UNAVAILABLE",
      ["503", WEIGHTS],
      [{ on: WEIGHTS, times: 99, status: 503 }],
    ],
    [
      "too long a wait",
      "HUB_TOO_MANY_REQUESTS",
      ["429", "wait 9999 s"],
      [{ on: "/api/", times: 1, status: 429, headers: { "retry-after": "9999" } }],
    ],
    [
      "404 of a file",
      "HUB_FILE_NOT_FOUND",
      [WEIGHTS],
      [{ on: WEIGHTS, times: 1, status: 404, headers: { "x-error-code": "EntryNotFound" } }],
    ],
    ["416", "HUB_RANGE_REFUSED", ["model remove"], [{ on: WEIGHTS, times: 9, status: 416 }]],
    [
      "another version in the middle",
      "HUB_FILE_CHANGED",
      [WEIGHTS, "another"],
      [{ on: WEIGHTS, times: 1, at: "hub", etag: "another" }],
    ],
    ["wrong bytes", "HUB_DIGEST_MISMATCH", [WEIGHTS], [{ on: WEIGHTS, times: 1, wrongByte: true }]],
    [
      "wrong bytes of a small file",
      "HUB_DIGEST_MISMATCH",
      ["vocab.json"],
      [{ on: "tokenizer/vocab.json", times: 1, wrongByte: true }],
    ],
    [
      "no ranges",
      "HUB_NO_RANGES",
      ["copy the whole folder"],
      [{ on: WEIGHTS, times: 99, noRanges: true }],
    ],
  ])("%s", async (_, reason, parts, faults) => {
    hub.fail(...faults);
    const found = await reasonOf(pull());
    expect(found.reason, found.message).toBe(reason);
    for (const part of parts) expect(found.message).toContain(part);
    expect(found.message).toContain(name);
    // Nothing wrong was kept: the next try gives the model.
    hub.fail();
    expectSame((await pull()).folder);
  });

  test.each([
    ["a model that is not there", { repository: "org/none" }, "HUB_MODEL_NOT_FOUND", "org/none"],
    ["a revision that is not there", { revision: "v9" }, "HUB_REVISION_NOT_FOUND", "v9"],
  ])("%s", async (_, reference, reason, part) => {
    const found = await reasonOf(open(reference));
    expect(found.reason, found.message).toBe(reason);
    expect(found.message).toContain(part);
  });

  test("a gated model, with no token, with one without access, and with a good one", async () => {
    const gated = "black-forest-labs/gated";
    await hub.serve(gated, model, { gated: true, commit: "a".repeat(40) });
    hub.tokens.add("hf_good");
    const none = await reasonOf(open({ repository: gated }));
    expect(none.reason).toBe("HUB_GATED");
    expect(none.message).toContain(`${hub.endpoint}/${gated}`);
    expect(none.message).toContain("set HF_TOKEN");
    const bad = await reasonOf(open({ repository: gated }, { HF_TOKEN: "hf_bad" }));
    expect(bad.message).toContain("no access yet");
    const good = await open({ repository: gated }, { HF_TOKEN: "hf_good" });
    await good.ensureHeaders();
  });

  test("no network", async () => {
    const found = await reasonOf(open({}, { HF_ENDPOINT: "http://127.0.0.1:9" }));
    expect(found.reason).toBe("HUB_UNREACHABLE");
    expect(found.message).toContain("127.0.0.1:9");
  });

  test("offline and not in the cache, and then in part", async () => {
    const offline = { HF_HUB_OFFLINE: "1" };
    const found = await reasonOf(open({}, offline));
    expect(found.reason).toBe("HUB_OFFLINE");
    expect(found.message).toContain(`fluxline model pull ${name}`);
    const made = await open();
    await made.ensureHeaders();
    rmSync(made.weights[0]!.place.manifestFile, { force: true });
    const part = await reasonOf((await open({}, offline)).ensureWhole());
    expect(part.reason).toBe("HUB_OFFLINE");
  });

  test("a repository of another layout", async () => {
    const folder = join(home, "other");
    mkdirSync(folder);
    writeFileSync(join(folder, "config.json"), "{}");
    await hub.serve("org/other", folder);
    const found = await reasonOf(open({ repository: "org/other" }));
    expect(found.reason).toBe("HUB_NO_MODEL");
    expect(found.message).toContain("model_index.json");
  });
});

describe("only what is needed", () => {
  test("a few ranges are fetched, near ones together, and never again", async () => {
    const made = await open();
    const { file } = made.weights.find(({ place }) => place.target.path === WEIGHTS)!.place;
    const ranges = [
      { file, offset: 1000, length: 500 },
      { file, offset: 1600, length: 400 },
      { file, offset: 3 * MIB, length: 10 },
    ];
    hub.forget();
    await made.ensure(ranges);
    expect(hub.bytesOnce(WEIGHTS)).toEqual([
      [1000, 2000],
      [3 * MIB, 3 * MIB + 10],
    ]);
    await made.ensure([...ranges, { file, offset: 1900, length: 200 }]);
    expect(byteCount(hub.bytesOnce(WEIGHTS))).toBe(1110);
    expect(hub.bytesAgain()).toBe(0);
    const [ours, theirs] = [readFileSync(file), readFileSync(join(model, WEIGHTS))];
    expect(ours.length).toBe(theirs.length);
    expect(ours.subarray(1000, 2100)).toEqual(theirs.subarray(1000, 2100));
    // Sparse: what is not there takes no room.
    expect(statSync(file).blocks * 512).toBeLessThan(MIB);
  });

  test("files that are not the model's are passed over", async () => {
    const made = await open();
    hub.forget();
    await made.ensure([{ file: "/somewhere/else.bin", offset: 0, length: 10 }]);
    expect(hub.requests).toEqual([]);
  });

  test("progress goes from nothing to all", async () => {
    const made = await open();
    const told: number[] = [];
    let total = 0;
    await made.ensureWhole(({ doneBytes, totalBytes }) => {
      told.push(doneBytes);
      total = totalBytes;
    });
    expect(told[0]).toBe(0);
    expect(told.at(-1)).toBe(total);
    expect(told).toEqual(told.toSorted((a, b) => a - b));
  });
});

describe("HF_HOME", () => {
  function snapshot(skip: (path: string) => boolean = () => false): string {
    const base = join(home, "hf/hub", `models--${name.replace("/", "--")}`);
    const folder = join(base, "snapshots", repository.commit);
    for (const { path, file } of repository.files) {
      if (skip(path)) continue;
      mkdirSync(join(folder, path, ".."), { recursive: true });
      symlinkSync(file, join(folder, path));
    }
    mkdirSync(join(base, "refs"));
    writeFileSync(join(base, "refs/main"), repository.commit);
    return folder;
  }

  test("a complete snapshot is used in place, offline too", async () => {
    const folder = snapshot();
    expect((await open()).folder).toBe(folder);
    expect((await open({}, { HF_HUB_OFFLINE: "1" })).folder).toBe(folder);
    expect(hub.bytesServed()).toBe(0);
    const { checkpoint } = await openModel(name, environment());
    expect(checkpoint).toMatchObject({ directory: folder, name: "flux-tiny" });
  });

  test("of an incomplete one the files that are there are linked, and nothing is written", async () => {
    const folder = snapshot((path) => path.startsWith("vae/"));
    const before = readdirSync(folder, { recursive: true });
    const made = await pull();
    expect(made.folder).not.toBe(folder);
    expectSame(made.folder);
    expect(hub.bytesServed(WEIGHTS)).toBe(0);
    expect(readdirSync(folder, { recursive: true })).toEqual(before);
  });
});

test("a limit makes room: the model that nobody uses goes, and what is in use stays", async () => {
  const other = "org/other-model";
  await hub.serve(other, model, { commit: "b".repeat(40) });
  const limit = { FLUXLINE_CACHE_MAX: "16MiB" };
  const first = await pull(limit);
  // In use, so there is no room for another.
  const second = await open({ repository: other }, limit);
  const refused = await reasonOf(second.ensureWhole());
  expect(refused.reason).toBe("CACHE_LIMIT_REACHED");
  expect(refused.message).toContain("16.0 MiB");
  first.close();
  await second.ensureWhole();
  expect(existsSync(first.folder)).toBe(false);
  expectSame(second.folder);
});

test("openModel names the model by its commit, and a folder as it is", async () => {
  const source = await openModel(`${name}@v1`, environment());
  expect(source.name).toBe(`${name}@${repository.commit}`);
  expect(source.checkpoint.digest).toBe((await openCheckpoint(model)).digest);
  expect((await openModel(model, {})).name).toBe(model);
});
