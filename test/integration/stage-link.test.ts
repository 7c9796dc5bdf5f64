/** The stage link over real sockets: what comes through, how it ends, and how it comes back. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { spawn } from "node:child_process";
import { lstatSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { AppError } from "@fluxline/kernel/error.ts";
import { Random } from "@fluxline/kernel/random.ts";
import {
  type LinkAddress,
  linkAddressText,
} from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import { frameBytes, RawPeer } from "../support/raw-peer.ts";
import { testSeed } from "../support/seed.ts";
import {
  driverIdentity,
  impatientLimits,
  LinkBench,
  type LinkSide,
  testLimits,
} from "../support/stage-link.ts";
import { until } from "../support/until.ts";

let bench: LinkBench;
beforeEach(() => {
  bench = new LinkBench();
});
afterEach(() => bench.close());

const tcp: LinkAddress = { kind: "tcp", host: "127.0.0.1", port: 0 };

describe("a link", () => {
  test.each(["unix", "tcp"])("over %s carries frames both ways, in order", async (kind) => {
    const address = kind === "unix" ? bench.socketAddress() : tcp;
    const stage = await bench.listen({ address });
    const driver = bench.dial(stage.address);
    await until(() => stage.side.last !== undefined && driver.side.last !== undefined);
    const values = Float32Array.from({ length: 300_000 }, (_, index) => index / 7);
    const { link } = driver.side.last!;
    await Promise.all([
      link.send({ at: 1 }, [new Uint8Array(values.buffer)]),
      link.send({ at: 2 }),
      stage.side.last!.link.send({ back: true }, [Uint8Array.of(7)]),
    ]);
    await until(() => stage.side.last!.frames.length === 2);
    const [first, second] = stage.side.last!.frames;
    expect([first!.header, second!.header]).toEqual([{ at: 1 }, { at: 2 }]);
    const { buffer, byteOffset } = first!.payload;
    expect(new Float32Array(buffer, byteOffset, values.length)).toEqual(values);
    await until(() => driver.side.last!.frames.length === 1);
    expect(link.peer).toMatchObject({ role: "stage", rank: 1 });
    expect(stage.side.last!.link.peer).toMatchObject({ role: "driver", incarnation: "driver-1" });
  });
});

describe("a link ends once, with a reason, when", () => {
  test("one end closes it: what waits is rejected, and the other end is told", async () => {
    const stage = await bench.listen();
    stage.side.onFrame = () => new Promise<void>(() => undefined);
    const driver = bench.dial(stage.address, { pauseMs: { first: 60_000, max: 60_000 } });
    await until(() => driver.dialer.link !== undefined && stage.side.last !== undefined);
    const { link, ends } = driver.side.last!;
    const sending = Array.from({ length: 12 }, (_, at) => link.send({ at }));
    const settled = Promise.allSettled(sending);
    await until(() => stage.side.last!.frames.length === 8);
    link.close("the test is over");
    link.close("twice");
    const rejected = (await settled).filter(({ status }) => status === "rejected");
    expect(rejected.length).toBe(4);
    expect(ends).toMatchObject([{ reason: "LINK_CLOSED" }]);
    await expect(link.send({})).rejects.toBe(ends[0]);
    await until(() => stage.side.last!.ends.length > 0);
    expect(stage.side.last!.ends).toMatchObject([
      {
        reason: "LINK_CLOSED_BY_PEER",
        retryable: true,
        details: { peerReason: "LINK_CLOSED" },
        message: expect.stringContaining("the test is over"),
      },
    ]);
  });

  test("a handler fails: its error reaches the sender", async () => {
    const stage = await bench.listen();
    stage.side.onFrame = async () => {
      throw new AppError("invalid_argument", "no such graph", { reason: "NO_GRAPH" });
    };
    const driver = bench.dial(stage.address);
    await until(() => driver.dialer.link !== undefined);
    await driver.side.last!.link.send({});
    await until(() => driver.side.links[0]!.ends.length === 1);
    expect(stage.side.links[0]!.ends).toMatchObject([{ reason: "NO_GRAPH" }]);
    expect(driver.side.links[0]!.ends).toMatchObject([{ details: { peerReason: "NO_GRAPH" } }]);
  });

  test.each([
    ["the connection is cut in the middle of a frame", 40, "in the middle of a frame"],
    ["the peer is gone without a word", 0, "without a word"],
  ])("%s", async (_, bytes, said) => {
    const stage = await bench.listen();
    const peer = await RawPeer.shakeHands(bench, stage.address);
    await until(() => stage.side.last !== undefined);
    peer.socket.end(frameBytes({}, [new Uint8Array(64)]).subarray(0, bytes));
    await until(() => stage.side.last!.ends.length > 0);
    expect(stage.side.last!.ends).toMatchObject([
      { reason: "LINK_LOST", code: "unavailable", message: expect.stringContaining(said) },
    ]);
    expect(stage.side.last!.frames).toEqual([]);
  });

  test("the peer resets the connection", async () => {
    const stage = await bench.listen({ address: tcp });
    const peer = await RawPeer.shakeHands(bench, stage.address);
    await until(() => stage.side.last !== undefined);
    peer.socket.resetAndDestroy();
    await until(() => stage.side.last!.ends.length > 0);
    expect(stage.side.last!.ends).toMatchObject([{ reason: "LINK_LOST" }]);
  });

  test("the peer says nothing any more", async () => {
    const stage = await bench.listen({ limits: impatientLimits() });
    const peer = await RawPeer.shakeHands(bench, stage.address);
    await until(() => peer.isClosed);
    expect(peer.count("heartbeat")).toBeGreaterThan(0);
    expect(peer.told?.reason).toBe("LINK_SILENT");
    expect(stage.side.last!.ends).toMatchObject([{ reason: "LINK_SILENT" }]);
  });

  test("not while a large frame comes slowly, without a heartbeat between its bytes", async () => {
    const stage = await bench.listen({ limits: impatientLimits() });
    const peer = await RawPeer.shakeHands(bench, stage.address);
    const bytes = frameBytes({ at: 1 }, [new Uint8Array(4000)]);
    // Three times as long as the silence that ends a link.
    for (let at = 0; at < bytes.length; at += 100) {
      peer.write(bytes.subarray(at, at + 100));
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    await until(() => stage.side.last!.frames.length === 1);
    expect(stage.side.last!.ends).toEqual([]);
  });
});

describe("two ends of one process", () => {
  test("never exceed their credit under random traffic, and keep order and bytes", async () => {
    const random = new Random(testSeed());
    const limits = testLimits({
      payloadBytesMax: 300_000,
      headerBytesMax: 1000,
      windowFrames: 3,
      windowBytes: 450_000,
      queueFramesMax: 1000,
      queueBytesMax: 2 ** 30,
    });
    const stage = await bench.listen({ limits });
    const driver = bench.dial(stage.address, { limits });
    await until(() => driver.side.last !== undefined && stage.side.last !== undefined);
    const frameCount = 200;
    const exchange = (from: LinkSide, to: LinkSide, draw: Random) => {
      let held = { frames: 0, bytes: 0 };
      const peak = { frames: 0, bytes: 0 };
      to.onFrame = async ({ payload }) => {
        held = { frames: held.frames + 1, bytes: held.bytes + payload.length };
        peak.frames = Math.max(peak.frames, held.frames);
        peak.bytes = Math.max(peak.bytes, held.bytes);
        await new Promise((resolve) => setTimeout(resolve, draw.below(3)));
        held = { frames: held.frames - 1, bytes: held.bytes - payload.length };
      };
      const sent = Array.from({ length: frameCount }, (_, at) => {
        const bytes = draw.below(3) === 0 ? draw.below(300_000) : draw.below(200);
        const filler = draw.below(256);
        const payload = new Uint8Array(bytes).map((_byte, index) => index + filler);
        return { header: { at, text: "ü".repeat(draw.below(50)) }, payload };
      });
      const { link } = from.last!;
      const done = Promise.all(sent.map(({ header, payload }) => link.send(header, [payload])));
      return { sent, peak, done };
    };
    const down = exchange(driver.side, stage.side, random.fork());
    const up = exchange(stage.side, driver.side, random.fork());
    await Promise.all([down.done, up.done]);
    for (const [{ sent, peak }, end] of [
      [down, stage.side.last!],
      [up, driver.side.last!],
    ] as const) {
      await until(() => end.frames.length === frameCount);
      expect(end.frames.map(({ header }) => header)).toEqual(sent.map(({ header }) => header));
      end.frames.forEach(({ payload }, at) => {
        const { payload: expected } = sent[at]!;
        expect(Buffer.compare(payload.subarray(0, expected.length), expected)).toBe(0);
      });
      expect(peak.frames).toBeGreaterThan(1);
      expect(peak.frames).toBeLessThanOrEqual(limits.windowFrames);
      expect(peak.bytes).toBeLessThanOrEqual(limits.windowBytes);
      expect(end.ends).toEqual([]);
    }
  });

  test("come together again after each end, and count failures", async () => {
    const stage = await bench.listen();
    const driver = bench.dial(stage.address);
    for (let round = 1; round <= 3; round++) {
      await until(() => driver.side.links.length === round && driver.dialer.link !== undefined);
      await driver.dialer.link!.send({ round });
      await until(() => stage.side.links[round - 1]?.frames.length === 1);
      stage.side.last!.link.close();
      await until(() => driver.side.links[round - 1]!.ends.length === 1);
    }
    await stage.listener.close();
    const { length } = driver.side.downs;
    await until(() => driver.side.downs.length >= length + 3);
    const [first, second, third] = driver.side.downs.slice(-3);
    expect(third!.error.reason).toBe("LINK_UNREACHABLE");
    expect(second!.failures).toBe(first!.failures + 1);
    expect(third!.failures).toBe(second!.failures + 1);
    const again = await bench.listen();
    await until(() => driver.dialer.link !== undefined);
    expect(again.listener.links.length).toBe(1);
    await driver.dialer.stop();
    const downs = driver.side.downs.length;
    await until(() => again.listener.links.length === 0);
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect([driver.side.downs.length, again.listener.links.length]).toEqual([downs, 0]);
  });

  test("may be stopped at any time", async () => {
    for (const address of [bench.socketAddress("nobody.sock"), tcp]) {
      const driver = bench.dial(address);
      await driver.dialer.stop();
      expect(driver.side.downs).toEqual([]);
    }
    const stage = await bench.listen();
    const driver = bench.dial(stage.address);
    await Promise.all([stage.listener.close(), driver.dialer.stop()]);
    await stage.listener.close();
  });
});

describe("a process that is frozen", () => {
  /** Runs the peer script; `lines` are what it has printed. */
  function start(side: "listen" | "dial", address: LinkAddress, incarnation: string) {
    const child = spawn(process.execPath, [
      fileURLToPath(new URL("../support/stage-link-peer.ts", import.meta.url)),
      side,
      linkAddressText(address),
      incarnation,
    ]);
    const lines: string[] = [];
    createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
    const gone = new Promise<void>((resolve) => child.once("close", () => resolve()));
    bench.onClose(() => {
      child.kill("SIGKILL");
      return gone;
    });
    return { child, lines, gone };
  }

  test("is given up by its driver, and taken again when it goes on", async () => {
    const address = bench.socketAddress();
    const stage = start("listen", address, "stage-1");
    const driver = bench.dial(address);
    await until(() => driver.dialer.link !== undefined);
    await driver.dialer.link!.send({ at: 1 });
    await until(() => driver.side.last!.frames.length === 1);
    stage.child.kill("SIGSTOP");
    const large = new Uint8Array(4 * 1024 * 1024);
    const lost = await driver.dialer
      .link!.send({ at: 2 }, [large])
      .catch((error: unknown) => error);
    expect(lost).toBe(driver.side.links[0]!.ends[0]);
    expect(["LINK_SILENT", "LINK_STALLED"]).toContain(driver.side.links[0]!.ends[0]!.reason);
    stage.child.kill("SIGCONT");
    await until(() => driver.dialer.link !== undefined);
    await driver.dialer.link!.send({ at: 3 });
    await until(() => driver.side.last!.frames.length === 1);
    expect(driver.side.last!.frames[0]!.header).toEqual({ at: 3 });
  });

  test("and was the driver, is refused when it thaws and another has taken over", async () => {
    const stage = await bench.listen();
    const old = start("dial", stage.address, "driver-old");
    await until(() => stage.side.links.length === 1);
    old.child.kill("SIGSTOP");
    const identity = { ...driverIdentity, incarnation: "driver-new" };
    const next = bench.dial(stage.address, { identity });
    await until(() => next.dialer.link !== undefined);
    expect(next.side.downs[0]!.error.reason).toBe("PEER_ALREADY_LINKED");
    expect(stage.side.links[0]!.ends).toMatchObject([{ reason: "LINK_SILENT" }]);
    old.child.kill("SIGCONT");
    await until(() => old.lines.includes("down PEER_ALREADY_LINKED"));
    expect(stage.listener.links.map(({ peer }) => peer.incarnation)).toEqual(["driver-new"]);
    expect(next.side.last!.ends).toEqual([]);
  });

  test("and killed leaves a socket that the next one replaces", async () => {
    const address = bench.socketAddress();
    const { path } = address as { path: string };
    const stage = start("listen", address, "stage-1");
    const driver = bench.dial(address);
    await until(() => driver.dialer.link !== undefined);
    stage.child.kill("SIGKILL");
    await stage.gone;
    expect(lstatSync(path).isSocket()).toBe(true);
    await until(() => driver.dialer.link === undefined);
    const next = await bench.listen();
    await until(() => driver.dialer.link !== undefined);
    expect(next.listener.links.length).toBe(1);
  });
});
