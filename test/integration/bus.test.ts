import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Bus, connectBus } from "@fluxline/platform/bus/connection.ts";
import { openKeyValue, type WatchEvent } from "@fluxline/platform/bus/key-value.ts";
import { openObjects } from "@fluxline/platform/bus/object-store.ts";
import { provisionStores } from "@fluxline/platform/bus/provision.ts";
import { callBus, listenBus, publishBus, serveBus } from "@fluxline/platform/bus/request.ts";
import {
  groupSubject,
  jobsBucket,
  leadersBucket,
  leaderSubject,
  resultsStore,
} from "@fluxline/platform/bus/topology.ts";
import { CancelReply, CancelRequest, Heartbeat } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import { freePort, type NatsServer, startNats } from "../support/nats.ts";
import { until } from "../support/until.ts";

let nats: NatsServer;
let bus: Bus;
const text = (value: string) => new TextEncoder().encode(value);

beforeAll(async () => {
  nats = await startNats();
  bus = await connectBus({ url: nats.url, name: "test" });
  await provisionStores(bus);
});

afterAll(async () => {
  await bus?.close();
  await nats?.close();
});

describe("connection", () => {
  test("an unreachable server is an error that names the address and the way out", async () => {
    const url = `nats://127.0.0.1:${await freePort()}`;
    await expect(connectBus({ url, name: "test" })).rejects.toMatchObject({
      code: "unavailable",
      reason: "NATS_UNREACHABLE",
      message: expect.stringMatching(new RegExp(`${url}.*start a nats-server`)),
    });
  });

  test("a message above the server's limit is refused before it is sent", async () => {
    const payload = new Uint8Array(bus.payloadBytesMax + 1);
    expect(() => bus.publish("fl.v1.p.g.progress", payload)).toThrow(/max_payload/);
    expect(await bus.connection.rtt()).toBeGreaterThanOrEqual(0);
  });

  test("provisioning again brings a changed bucket back in line", async () => {
    const { streams } = bus.jetStreamManager;
    await streams.update("KV_leaders", { max_age: 0 });
    await provisionStores(bus);
    const { config } = await streams.info("KV_leaders");
    expect(config.max_age).toBe(leadersBucket.ttlMs * 1e6);
    expect(config.allow_direct ?? false).toBe(false);
  });
});

describe("request and reply", () => {
  const call = (subject: string, timeoutMs = 300) => ({
    subject,
    request: CancelRequest,
    reply: CancelReply,
    body: { pool: "p", tenant: "default", job: "j" },
    timeoutMs,
  });
  const reply = (revision: bigint) => ({ outcome: undefined, revision });

  test("tells a reply, nobody there, and no reply in time apart", async () => {
    const subject = leaderSubject("p", "cancel");
    expect(await callBus(bus, call(subject))).toMatchObject({ kind: "undelivered" });
    const errors: string[] = [];
    let answers = true;
    const served = serveBus(bus, {
      subject,
      request: CancelRequest,
      reply: CancelReply,
      handle: (request) => (answers ? reply(BigInt(request.job.length)) : undefined),
      onError: (error) => errors.push(error.message),
    });
    expect(await callBus(bus, call(subject))).toMatchObject({
      kind: "reply",
      value: { revision: 1n },
    });
    answers = false;
    expect(await callBus(bus, call(subject))).toMatchObject({ kind: "unknown" });
    await served.stop();
    expect(errors).toEqual([]);
  });

  test("a request that cannot be decoded reaches onError and gets no reply", async () => {
    const subject = leaderSubject("q", "cancel");
    const errors: string[] = [];
    const served = serveBus(bus, {
      subject,
      request: CancelRequest,
      reply: CancelReply,
      handle: () => reply(0n),
      onError: (error) => errors.push(error.message),
    });
    await expect(
      bus.connection.request(subject, new Uint8Array([255, 255]), { timeout: 300 }),
    ).rejects.toThrow();
    expect(errors).toHaveLength(1);
    await served.stop();
  });

  test("one of a queue group answers", async () => {
    const subject = leaderSubject("r", "cancel");
    let handled = 0;
    const member = () =>
      serveBus(bus, {
        subject,
        queue: "leaders",
        request: CancelRequest,
        reply: CancelReply,
        handle: () => reply(BigInt(++handled)),
        onError: (error) => expect.unreachable(error.message),
      });
    const members = [member(), member(), member()];
    await bus.connection.flush();
    for (let i = 1; i <= 20; i++) await callBus(bus, call(subject));
    expect(handled).toBe(20);
    for (const served of members) await served.stop();
  });

  test("events reach who listens, whatever the group", async () => {
    const heard: string[] = [];
    const served = listenBus(bus, {
      subject: "fl.v1.p.*.heartbeat",
      message: Heartbeat,
      handle: (heartbeat) => heard.push(heartbeat.group),
      onError: (error) => expect.unreachable(error.message),
    });
    await bus.connection.flush();
    const beat = Heartbeat.fromPartial({ pool: "p", group: "g1" });
    expect(publishBus(bus, groupSubject("p", "g1", "heartbeat"), Heartbeat, beat)).toBe(true);
    await until(() => heard.length === 1);
    expect(heard).toEqual(["g1"]);
    await served.stop();
  });
});

describe("key-value", () => {
  test("compare-and-set has one winner, and a removed key can be made again", async () => {
    const kv = await openKeyValue(bus, jobsBucket);
    const key = "p.default.cas";
    expect(await kv.get(key)).toBeUndefined();
    const created = await kv.create(key, text("1"));
    expect(await kv.create(key, text("x"))).toEqual({ kind: "conflict" });
    if (created.kind !== "written") return expect.unreachable(created.kind);
    const updated = await kv.update(key, text("2"), created.revision);
    expect(updated.kind).toBe("written");
    expect(await kv.update(key, text("3"), created.revision)).toEqual({ kind: "conflict" });
    expect(await kv.remove(key, created.revision)).toEqual({ kind: "conflict" });
    if (updated.kind !== "written") return expect.unreachable(updated.kind);
    expect((await kv.remove(key, updated.revision)).kind).toBe("written");
    expect(await kv.get(key)).toBeUndefined();
    expect((await kv.create(key, text("4"))).kind).toBe("written");
    await kv.erase(key, updated.revision + 1);
    expect((await kv.get(key))?.value).toEqual(text("4"));
    await kv.erase(key, 1_000_000);
    expect(await kv.get(key)).toBeUndefined();
  });

  test("a value above the bucket's limit is refused, certainly not written", async () => {
    const kv = await openKeyValue(bus, leadersBucket);
    const outcome = await kv.create("large", new Uint8Array(leadersBucket.valueBytesMax + 1024));
    expect(outcome).toMatchObject({ kind: "refused", error: { reason: "VALUE_TOO_LARGE" } });
  });

  test("a watch tells what is there, then changes, and goes on after NATS restarts", async () => {
    const kv = await openKeyValue(bus, jobsBucket);
    await kv.create("w.default.a", text("1"));
    const events: WatchEvent[] = [];
    const watch = kv.watch("w.>", (event) => events.push(event));
    const told = (key: string) => events.some((e) => e.kind === "put" && e.key === key);
    await until(() => events.some((e) => e.kind === "synced"));
    expect(events.map((e) => e.kind)).toEqual(["put", "synced"]);
    await kv.create("w.default.b", text("2"));
    await kv.create("other.default.c", text("3"));
    await until(() => told("w.default.b"));
    await nats.restart();
    await until(() => bus.connected);
    expect((await kv.create("w.default.d", text("4"))).kind).toBe("written");
    await until(() => told("w.default.d"), 5_000);
    const puts = events.flatMap((e) => (e.kind === "put" ? [e.key] : []));
    expect(puts).toEqual(["w.default.a", "w.default.b", "w.default.d"]);
    await watch.stop();
  });
});

describe("object store", () => {
  test("a full store is an error that says what to do, and works again with more room", async () => {
    const { streams } = bus.jetStreamManager;
    const objects = await openObjects(bus, resultsStore);
    await streams.update("OBJ_results", { max_bytes: 100_000 });
    await expect(objects.put("p/default/full/1/0", new Uint8Array(400_000))).rejects.toMatchObject({
      code: "resource_exhausted",
      reason: "STORE_FULL",
      message: expect.stringMatching(/results.*free space/),
    });
    await provisionStores(bus);
    await objects.put("p/default/full/1/0", new Uint8Array(400_000));
    await objects.delete("p/default/full/1/0");
  });

  test("a key is used once: same bytes again are fine, others are refused", async () => {
    const objects = await openObjects(bus, resultsStore);
    const bytes = new Uint8Array(700_000).map((_, i) => i % 251);
    const key = "p/default/job/1/0";
    const put = await objects.put(key, bytes);
    expect(put.sizeBytes).toBe(700_000);
    expect(await objects.put(key, bytes)).toEqual(put);
    await expect(objects.put(key, text("other"))).rejects.toMatchObject({
      reason: "OBJECT_EXISTS",
    });
    expect(await objects.getBytes(key)).toEqual(bytes);
    expect((await objects.list()).map((object) => object.key)).toEqual([key]);
    await objects.delete(key);
    await objects.delete(key);
    expect(await objects.get(key)).toBeUndefined();
    expect(await objects.list()).toEqual([]);
    await objects.put(key, text("other"));
    expect(await objects.getBytes(key)).toEqual(text("other"));
  });

  test("a put under way when the connection breaks ends then, not after its timeout", async () => {
    const objects = await openObjects(bus, resultsStore);
    nats.pause();
    const put = objects.put("p/default/broken/1/0", text("x"));
    put.catch(() => undefined);
    await nats.restart();
    await expect(put).rejects.toMatchObject({ retryable: true, reason: "NATS_DISCONNECTED" });
    await until(() => bus.connected);
    await objects.put("p/default/broken/1/0", text("x"));
    await objects.delete("p/default/broken/1/0");
  });
});
