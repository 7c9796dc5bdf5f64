/** A peer that breaks the stage link's rules, on purpose or by accident, over real sockets. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { crc32 } from "node:zlib";
import { AppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
import { PREFIX_BYTES } from "@fluxline/gpu-node/adapters/frame.ts";
import { controlFrame } from "@fluxline/gpu-node/adapters/stage-link/link-message.ts";
import { changed, frameBytes, RawPeer, validHello } from "../support/raw-peer.ts";
import { testSeed } from "../support/seed.ts";
import { impatientLimits, LinkBench, testLimits } from "../support/stage-link.ts";
import { until } from "../support/until.ts";

let bench: LinkBench;
beforeEach(() => {
  bench = new LinkBench();
});
afterEach(() => bench.close());

describe("a peer that breaks the rules", () => {
  const large = testLimits().payloadBytesMax;

  /** A prefix that announces a payload, without it. */
  function announced(payloadBytes: number): Buffer {
    const bytes = frameBytes({}).subarray(0, PREFIX_BYTES);
    bytes.writeBigUInt64LE(BigInt(payloadBytes), 16);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, 28)), 28);
    return bytes;
  }

  test.each<[string, Uint8Array, string]>([
    ["has a wrong checksum", changed(frameBytes({ run: 1 }), 9), "FRAME_CORRUPT"],
    [
      "sends a header that is not what it was",
      changed(frameBytes({ run: 1 }), 36),
      "FRAME_CORRUPT",
    ],
    [
      "sends a payload that is not what it was",
      changed(frameBytes({}, [new Uint8Array(64)], { payloadChecksum: true }), 50),
      "FRAME_CORRUPT",
    ],
    ["announces more than may come", announced(large + 8), "FRAME_TOO_LARGE"],
    ["announces more than there is memory", announced(2 ** 50), "FRAME_TOO_LARGE"],
    [
      "gives back credit that was not used",
      controlFrame("credit", { frames: 9, bytes: 0 }),
      "PROTOCOL_VIOLATION",
    ],
    [
      "gives negative credit",
      controlFrame("credit", { frames: -1, bytes: -5 }),
      "PROTOCOL_VIOLATION",
    ],
    ["says hello again", controlFrame("hello", validHello), "PROTOCOL_VIOLATION"],
    ["sends a kind that nobody knows", frameBytes({}, [], { kind: 99 }), "PROTOCOL_VIOLATION"],
    [
      "sends a heartbeat with a payload",
      frameBytes({}, [new Uint8Array(8)], { kind: 5 }),
      "PROTOCOL_VIOLATION",
    ],
  ])("and %s loses its link, and learns why", async (_, bytes, reason) => {
    const stage = await bench.listen();
    const peer = await RawPeer.shakeHands(bench, stage.address);
    peer.frame({ at: 1 });
    peer.write(bytes);
    peer.frame({ at: 2 });
    await until(() => peer.isClosed);
    expect(peer.told?.reason).toBe(reason);
    expect(stage.side.last!.ends).toMatchObject([{ reason }]);
    expect(stage.side.last!.frames.map(({ header }) => header)).toEqual([{ at: 1 }]);
  });

  test.each([
    ["frames", 9, 8],
    ["bytes", 3, 6 * 1024 * 1024],
  ])("and sends more %s than it has credit for loses its link", async (_, frames, payloadBytes) => {
    const stage = await bench.listen();
    stage.side.onFrame = () => new Promise<void>(() => undefined);
    const peer = await RawPeer.shakeHands(bench, stage.address);
    for (let at = 0; at < frames; at++) peer.frame({ at }, [new Uint8Array(payloadBytes)]);
    await until(() => stage.side.last?.ends.length === 1);
    expect(stage.side.last!.ends[0]!.reason).toBe("CREDIT_EXCEEDED");
    expect(stage.side.last!.frames.length).toBe(frames - 1);
  });

  test("and never reads makes the sender wait, and is given up", async () => {
    const stage = await bench.listen({ limits: impatientLimits() });
    const peer = await RawPeer.shakeHands(bench, stage.address, {
      ...validHello,
      limits: testLimits({ windowFrames: 1000, windowBytes: 2 ** 30 }),
    });
    await until(() => stage.side.last !== undefined);
    peer.socket.pause();
    const timer = setInterval(() => peer.write(controlFrame("heartbeat")), 50);
    bench.onClose(async () => clearInterval(timer));
    const { link, ends } = stage.side.last!;
    const sent = await Promise.allSettled(
      Array.from({ length: 20 }, () => link.send({}, [new Uint8Array(1024 * 1024)])),
    );
    expect(ends).toMatchObject([{ reason: "LINK_STALLED" }]);
    const lost = sent.filter(({ status }) => status === "rejected");
    expect(lost.length).toBeGreaterThan(10);
    expect(lost.every((one) => one.status === "rejected" && one.reason === ends[0])).toBe(true);
  });

  test("and settles nothing makes the sender wait, and refuse what is above its queue", async () => {
    const stage = await bench.listen({
      limits: testLimits({ queueFramesMax: 5, creditMsMax: 300 }),
    });
    await RawPeer.shakeHands(bench, stage.address).then((peer) => {
      const timer = setInterval(() => peer.write(controlFrame("heartbeat")), 50);
      bench.onClose(async () => clearInterval(timer));
    });
    await until(() => stage.side.last !== undefined);
    const { link, ends } = stage.side.last!;
    const { windowFrames } = validHello.limits;
    const sent = await Promise.allSettled(
      Array.from({ length: windowFrames + 6 }, (_, at) => link.send({ at })),
    );
    expect(sent.slice(0, windowFrames).every(({ status }) => status === "fulfilled")).toBe(true);
    const reasons = sent
      .slice(windowFrames)
      .map((one) => (one as PromiseRejectedResult).reason.reason);
    expect(reasons).toEqual([...Array(5).fill("LINK_WITHOUT_CREDIT"), "SEND_QUEUE_FULL"]);
    expect(ends).toMatchObject([{ reason: "LINK_WITHOUT_CREDIT" }]);
  });

  test("and takes only small frames is sent none that are larger", async () => {
    const stage = await bench.listen();
    const limits = testLimits({ payloadBytesMax: 1024, headerBytesMax: 100 });
    const peer = await RawPeer.shakeHands(bench, stage.address, { ...validHello, limits });
    await until(() => stage.side.last !== undefined);
    const { link } = stage.side.last!;
    const tooLarge = { code: "out_of_range", reason: "FRAME_TOO_LARGE" };
    await expect(link.send({}, [new Uint8Array(1025)])).rejects.toMatchObject(tooLarge);
    await expect(link.send("x".repeat(99))).rejects.toMatchObject(tooLarge);
    await link.send({ at: 1 }, [new Uint8Array(1024)]);
    await until(() => peer.count("message") === 1);
    expect(link.ended).toBeUndefined();
  });
});

/**
 * Changes bytes of a valid stream at random, from the first on or after the handshake. Whatever
 * comes of it, the stage gets frames that were sent, in order, and then a typed error or more.
 */
test("changed bytes neither crash nor hang a stage, nor get through", async () => {
  const random = new Random(testSeed());
  const stage = await bench.listen();
  const headers = Array.from({ length: 6 }, (_, at) => ({ at }));
  const parts = headers.map(() => new Uint8Array(random.below(500)).fill(7));
  const messages = Buffer.concat(
    headers.map((header, at) => frameBytes(header, [parts[at]!], { payloadChecksum: true })),
  );
  const opening = Buffer.concat([controlFrame("hello", validHello), controlFrame("accept")]);
  for (let round = 0; round < 150; round++) {
    const stream = Buffer.concat([opening, messages, controlFrame("heartbeat")]);
    const from = random.below(4) === 0 ? 0 : opening.length;
    for (let changes = 1 + random.below(3); changes > 0; changes--) {
      stream.writeUInt8(random.below(256), from + random.below(stream.length - from));
    }
    const cut = random.below(5) === 0 ? random.below(stream.length) : stream.length;
    const before = stage.side.links.length;
    const refused = stage.side.refusals.length;
    const peer = new RawPeer(bench, stage.address);
    for (let at = 0; at < cut;) {
      const piece = 1 + random.below(400);
      peer.write(stream.subarray(at, Math.min(cut, at + piece)));
      at += piece;
    }
    peer.socket.end();
    await until(() => peer.isClosed);
    await until(() => {
      const ended = stage.side.links.slice(before).every(({ ends }) => ends.length === 1);
      const known = stage.side.links.length - before + stage.side.refusals.length - refused;
      return ended && known === 1;
    });
    const got = stage.side.links[before]?.frames ?? [];
    expect(got.map(({ header }) => header)).toEqual(headers.slice(0, got.length));
    got.forEach(({ payload }, at) => {
      expect(Buffer.compare(payload.subarray(0, parts[at]!.length), parts[at]!)).toBe(0);
    });
    const errors = [
      ...stage.side.links.slice(before).flatMap(({ ends }) => ends),
      ...stage.side.refusals.slice(refused),
    ];
    expect(errors.every((error) => error instanceof AppError && error.reason !== "INTERNAL")).toBe(
      true,
    );
  }
  const reasons = new Set(stage.side.links.flatMap(({ ends }) => ends.map(({ reason }) => reason)));
  expect([...reasons]).toEqual(expect.arrayContaining(["FRAME_CORRUPT", "LINK_LOST"]));
});
