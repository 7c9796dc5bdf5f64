/**
 * Previews through every real part: group, NATS, scheduler, gRPC. They come between the events of
 * their steps as small PNG files, and nothing of them stays.
 */
import { fileURLToPath } from "node:url";
import { connectBus } from "@fluxline/platform/bus/connection.ts";
import { ImageJob_State as State, type Preview } from "@fluxline/proto/fluxline/v1/image_job.ts";
import {
  CreateImageJobRequest,
  GenerateImageRequest,
  type ImageJobEvent,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type GroupProcess, startGroupProcess } from "../support/group-process.ts";
import { type NatsServer, startNats } from "../support/nats.ts";
import { type SchedulerProcess, startScheduler, TestClient } from "../support/scheduler-process.ts";

const model = fileURLToPath(new URL("../../models/flux-tiny", import.meta.url));
const spec = { prompt: "a large red circle on a yellow background", seed: 1n };

let nats: NatsServer;
let scheduler: SchedulerProcess;
let group: GroupProcess;
let client: TestClient;

beforeAll(async () => {
  nats = await startNats();
  scheduler = await startScheduler(nats.url);
  group = await startGroupProcess(nats.url, model, ["--group", "g0"]);
  client = new TestClient(scheduler.address);
});

afterAll(async () => {
  client?.close();
  await group?.kill();
  await scheduler?.kill();
  await nats?.close();
});

const create = (more: object) => {
  const request = CreateImageJobRequest.fromPartial({ spec: { ...spec, ...more } });
  return client.call<{ name: string }>((c, done) => c.createImageJob(request, done));
};
const watch = (name: string) => client.raw.watchImageJob({ name, resumeRevision: 0n });

/** The picture of a preview, checked against what the preview says of itself. */
async function pictureOf(preview: Preview): Promise<Buffer> {
  expect(preview.contentType).toBe("image/png");
  const { data, info } = await sharp(preview.content).raw().toBuffer({ resolveWithObject: true });
  expect(info).toMatchObject({ width: preview.width, height: preview.height, channels: 3 });
  return data;
}

describe("a watch", () => {
  test("gets every preview after the progress of its step, as a PNG of its own", async () => {
    const { name } = await create({ numInferenceSteps: 40, previewCount: 4, width: 96 });
    const events = await client.collect<ImageJobEvent>(watch(name));
    const previews = events.flatMap(({ preview }) => preview ?? []);
    expect(previews.map(({ index, step }) => [index, step])).toEqual([
      [0, 8],
      [0, 16],
      [0, 24],
      [0, 32],
    ]);
    const pictures = await Promise.all(previews.map(pictureOf));
    expect(previews.map(({ width, height }) => [width, height])).toEqual(Array(4).fill([12, 8]));
    expect(new Set(pictures.map((picture) => picture.toString("hex"))).size).toBe(4);
    for (const [i, { preview, job, revision }] of events.entries()) {
      if (preview === undefined) continue;
      expect(job?.progress?.step).toBeGreaterThanOrEqual(preview.step);
      expect(job).toEqual(events[i - 1]!.job);
      expect(revision).toBe(events[i - 1]!.revision);
    }
    expect(events.at(-1)).toMatchObject({ job: { state: State.STATE_SUCCEEDED } });
    expect(events.at(-1)?.preview).toBeUndefined();
  });

  test("that begins late gets the newest preview at once", async () => {
    const { name } = await create({ numInferenceSteps: 240, previewCount: 2 });
    for await (const { preview } of watch(name)) if (preview?.step === 80) break;
    let first: Preview | undefined;
    for await (const { preview } of watch(name)) {
      first = preview;
      if (preview) break;
    }
    expect(first?.step).toBeLessThanOrEqual(160);
    expect(first?.step).toBeGreaterThanOrEqual(80);
    await client.collect(watch(name));
  });

  test("gets none when none were asked for", async () => {
    const { name } = await create({ numInferenceSteps: 4 });
    const events = await client.collect<ImageJobEvent>(watch(name));
    expect(events.filter(({ preview }) => preview !== undefined)).toEqual([]);
  });
});

test("GenerateImage brings the previews of all images before the pictures", async () => {
  const request = GenerateImageRequest.fromPartial({
    spec: { ...spec, numInferenceSteps: 20, previewCount: 2, imageCount: 2 },
  });
  const answers = await client.collect(client.raw.generateImage(request));
  const order = answers.map(({ event }) => event?.$case);
  expect(order.lastIndexOf("preview")).toBeLessThan(order.indexOf("imageChunk"));
  const previews = answers.flatMap(({ event }) => (event?.$case === "preview" ? event.value : []));
  const found = previews.map(({ index, step }) => `${index} at ${step}`).sort();
  expect(found).toEqual(["0 at 13", "0 at 7", "1 at 13", "1 at 7"]);
  for (const preview of previews) await pictureOf(preview);
});

test("the job echoes how many there can be, and more steps than previews are needed", async () => {
  const { name } = await create({ numInferenceSteps: 3, previewCount: 16 });
  const job = await client.call((c, done) => c.getImageJob({ name }, done));
  expect(job).toMatchObject({ spec: { previewCount: 2 } });
  const events = await client.collect<ImageJobEvent>(watch(name));
  expect(events.flatMap(({ preview }) => preview?.step ?? [])).toEqual([1, 2]);
});

test("nothing of a preview is stored anywhere", async () => {
  const { name } = await create({ numInferenceSteps: 12, previewCount: 11 });
  const events = await client.collect<ImageJobEvent>(watch(name));
  const previews = events.flatMap(({ preview }) => preview?.content ?? []);
  expect(previews.length).toBeGreaterThan(0);
  const kept = await storedBytes();
  expect(kept.includes(name.split("/").at(-1)!)).toBe(true);
  for (const content of previews) {
    expect(kept.includes(content)).toBe(false);
    expect(kept.includes(content.toString("base64"))).toBe(false);
  }
});

interface StreamInfo {
  readonly state: { readonly first_seq: number; readonly last_seq: number };
}
/** Without a message where one was deleted. */
interface StoredMessage {
  readonly message?: { readonly data?: string; readonly subject: string };
}

/** Every message of every stream: records, results, checkpoints. */
async function storedBytes(): Promise<Buffer> {
  const url = nats.url;
  const bus = await connectBus({ url, name: "reader", firstConnectMs: 5_000, onStatus: () => {} });
  try {
    const ask = async <T>(verb: string, body: object): Promise<T> => {
      const subject = `$JS.API.STREAM.${verb}`;
      const reply = await bus.connection.request(subject, JSON.stringify(body), { timeout: 5_000 });
      return reply.json<T>();
    };
    const { streams } = await ask<{ streams: string[] }>("NAMES", {});
    const all: Buffer[] = [];
    for (const stream of streams) {
      const { state } = await ask<StreamInfo>(`INFO.${stream}`, {});
      for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
        const { message } = await ask<StoredMessage>(`MSG.GET.${stream}`, { seq });
        all.push(Buffer.from(message?.data ?? "", "base64"), Buffer.from(message?.subject ?? ""));
      }
    }
    return Buffer.concat(all);
  } finally {
    await bus.drain();
  }
}
