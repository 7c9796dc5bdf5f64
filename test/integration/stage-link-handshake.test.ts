/** Who gets a stage link and who does not: handshake, certificates, addresses. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { connect as connectTls } from "node:tls";
import { type LinkAddress } from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import type { LinkIdentity } from "@fluxline/gpu-node/adapters/stage-link/link-identity.ts";
import { controlFrame, type Hello } from "@fluxline/gpu-node/adapters/stage-link/link-message.ts";
import type { LinkSecurity } from "@fluxline/gpu-node/adapters/stage-link/link-security.ts";
import { TestAuthority } from "../support/certificates.ts";
import { changed, frameBytes, RawPeer, validHello } from "../support/raw-peer.ts";
import {
  driverIdentity,
  impatientLimits,
  LinkBench,
  type LinkSide,
  stageIdentity,
  testLimits,
} from "../support/stage-link.ts";
import { until } from "../support/until.ts";

let bench: LinkBench;
beforeEach(() => {
  bench = new LinkBench();
});
afterEach(() => bench.close());

const tcp: LinkAddress = { kind: "tcp", host: "127.0.0.1", port: 0 };

describe("the handshake", () => {
  const other = (changed: Partial<LinkIdentity>): Hello => ({
    ...validHello,
    identity: { ...driverIdentity, ...changed },
  });

  test.each<[string, Hello, string]>([
    ["another pool", other({ pool: "p2" }), "pool"],
    ["another group", other({ group: "g9" }), "group"],
    ["another number of stages", other({ stages: 4 }), "stages"],
    ["another plan", other({ planDigest: "plan-2" }), "planDigest"],
    ["another model", other({ modelDigest: "model-2" }), "modelDigest"],
    ["another numerics class", other({ numericsClass: "class-2" }), "numericsClass"],
    ["another rank", other({ role: "stage", rank: 2 }), "role"],
    ["a driver of rank 1", other({ rank: 1 }), "rank"],
    ["a later protocol", { ...validHello, protocol: { min: 7, max: 9 } }, "protocol"],
    [
      "heartbeats too rare",
      { ...validHello, limits: testLimits({ heartbeatMs: 3000, silenceMsMax: 9000 }) },
      "heartbeatMs",
    ],
  ])("refuses %s: it names the field and both values, at both ends", async (_, hello, field) => {
    const stage = await bench.listen();
    const peer = new RawPeer(bench, stage.address);
    peer.write(controlFrame("hello", hello));
    await until(() => peer.isClosed);
    const mismatch = { reason: "PEER_MISMATCH", violations: [{ field }] };
    expect(peer.told).toMatchObject(mismatch);
    expect(stage.side.refusals).toMatchObject([mismatch]);
    const { description } = stage.side.refusals[0]!.violations[0]!;
    expect(peer.told!.violations[0]!.description).toBe(description);
    expect(description).toMatch(/^is .*; (start|give|check|bring|let) /);
    expect(stage.side.links).toEqual([]);
  });

  test("names every field at once, to the dialer that asked", async () => {
    const stage = await bench.listen();
    const identity = { ...driverIdentity, planDigest: "plan-2", numericsClass: "class-2" };
    const driver = bench.dial(stage.address, { identity });
    await until(() => driver.side.downs.length > 0);
    const { error } = driver.side.downs[0]!;
    expect(error.violations.map(({ field }) => field)).toEqual(["planDigest", "numericsClass"]);
    expect(error.violations[0]!.description).toBe(
      'is "plan-1" at stage 1 and "plan-2" at the driver (rank 0); ' +
        "start every rank with the same --stages, --cuts and --place",
    );
  });

  test("lets the dialer refuse the rank that it finds", async () => {
    const stage = await bench.listen({ identity: stageIdentity(2) });
    const driver = bench.dial(stage.address);
    await until(() => driver.side.downs.length > 0);
    const mismatch = { reason: "PEER_MISMATCH", violations: [{ field: "rank" }] };
    expect(driver.side.downs[0]!.error).toMatchObject(mismatch);
    await until(() => stage.side.refusals.length > 0);
    expect(stage.side.refusals[0]).toMatchObject(mismatch);
  });

  test("takes the stage before as well as the driver", async () => {
    const stage = await bench.listen({ identity: stageIdentity(2) });
    const expected = { role: "stage", rank: 2 } as const;
    bench.dial(stage.address, { expected });
    bench.dial(stage.address, { expected, identity: stageIdentity(1) });
    await until(() => stage.listener.links.length === 2);
    expect(stage.side.refusals).toEqual([]);
  });

  test.each<[string, Uint8Array, string]>([
    ["another protocol", Buffer.from("GET / HTTP/1.1\r\nHost: stage\r\n\r\n      "), "FRAME_MAGIC"],
    ["another version of the format", changed(controlFrame("hello"), 4), "FRAME_VERSION"],
    ["a broken prefix", changed(controlFrame("hello"), 9), "FRAME_CORRUPT"],
    ["a hello that is none", controlFrame("hello", { protocol: 1 }), "PROTOCOL_VIOLATION"],
    [
      "a hello without an identity",
      controlFrame("hello", { protocol: { min: 1, max: 1 } }),
      "PROTOCOL_VIOLATION",
    ],
    ["a hello that is too long", controlFrame("hello", "x".repeat(70_000)), "FRAME_TOO_LARGE"],
    ["a payload", frameBytes({}, [new Uint8Array(8)], { kind: 1 }), "FRAME_TOO_LARGE"],
    ["a message", frameBytes({ run: 1 }), "PROTOCOL_VIOLATION"],
    ["accept before hello", controlFrame("accept"), "PROTOCOL_VIOLATION"],
  ])("refuses %s, and says why", async (_, bytes, reason) => {
    const stage = await bench.listen();
    const peer = new RawPeer(bench, stage.address);
    peer.write(bytes);
    await until(() => peer.isClosed);
    expect(stage.side.refusals).toMatchObject([{ reason }]);
    expect(peer.told?.reason).toBe(reason);
  });

  test("drops a peer that says nothing, and one that says it too slowly", async () => {
    const stage = await bench.listen({ limits: impatientLimits() });
    const silent = new RawPeer(bench, stage.address);
    const slow = new RawPeer(bench, stage.address);
    const hello = controlFrame("hello", validHello);
    let at = 0;
    const timer = setInterval(() => slow.write(hello.subarray(at, ++at)), 20);
    bench.onClose(async () => clearInterval(timer));
    await until(() => silent.isClosed && slow.isClosed);
    expect(stage.side.refusals.map(({ reason }) => reason)).toEqual([
      "HANDSHAKE_TIMEOUT",
      "HANDSHAKE_TIMEOUT",
    ]);
    expect(silent.told?.reason).toBe("HANDSHAKE_TIMEOUT");
  });

  test("gives up an end that accepts connections and says nothing", async () => {
    const mute = createServer(() => undefined);
    const { path } = bench.socketAddress() as { path: string };
    await new Promise<void>((resolve) => mute.listen(path, resolve));
    bench.onClose(async () => void mute.close());
    const driver = bench.dial(bench.socketAddress(), { limits: impatientLimits() });
    await until(() => driver.side.downs.length > 0);
    expect(driver.side.downs[0]!.error.reason).toBe("HANDSHAKE_TIMEOUT");
  });

  test("lets no more than 16 strangers wait, and ranks in when they are gone", async () => {
    const stage = await bench.listen({ limits: impatientLimits() });
    const strangers = Array.from({ length: 20 }, () => new RawPeer(bench, stage.address));
    await until(() => strangers.filter(({ isClosed }) => isClosed).length === 4);
    expect(strangers.filter((peer) => peer.told !== undefined)).toEqual([]);
    const driver = bench.dial(stage.address);
    await until(() => driver.dialer.link !== undefined);
    expect(strangers.every(({ isClosed }) => isClosed)).toBe(true);
  });

  test("refuses a second driver while the first one's link is alive", async () => {
    const stage = await bench.listen();
    const first = bench.dial(stage.address);
    await until(() => first.dialer.link !== undefined);
    const identity = { ...driverIdentity, incarnation: "driver-2" };
    const second = bench.dial(stage.address, { identity });
    await until(() => second.side.downs.length >= 3);
    expect(second.side.downs[0]!.error).toMatchObject({
      code: "already_exists",
      reason: "PEER_ALREADY_LINKED",
      retryable: true,
      message: expect.stringMatching(/driver-1.*driver-2/),
    });
    expect(first.side.last!.ends).toEqual([]);
    await first.dialer.stop();
    await until(() => second.dialer.link !== undefined);
    expect(stage.side.links.map(({ link }) => link.peer.incarnation)).toEqual([
      "driver-1",
      "driver-2",
    ]);
  });

  test("lets the same driver come again at once: it has given up the old link", async () => {
    const stage = await bench.listen();
    const first = await RawPeer.shakeHands(bench, stage.address);
    await until(() => stage.side.links.length === 1);
    await RawPeer.shakeHands(bench, stage.address);
    await until(() => stage.side.links.length === 2);
    expect(stage.side.links[0]!.ends).toMatchObject([{ reason: "LINK_CLOSED" }]);
    await until(() => first.isClosed);
    expect(stage.listener.links.length).toBe(1);
  });
});

describe("mutual TLS", () => {
  async function attempt(stage: LinkSecurity | undefined, driver: LinkSecurity | undefined) {
    const listening = await bench.listen({ address: tcp, ...(stage && { security: stage }) });
    const dialing = bench.dial(listening.address, {
      pauseMs: { first: 60_000, max: 60_000 },
      ...(driver && { security: driver }),
    });
    await until(() => dialing.side.downs.length + dialing.side.links.length > 0);
    return { stage: listening.side, driver: dialing.side };
  }

  let authority: TestAuthority;
  beforeEach(async () => {
    authority = await TestAuthority.create(bench.folder, "authority");
  });

  test("carries frames between ends that show the group's name", async () => {
    const { stage, driver } = await attempt(
      await authority.issue("stage", { name: "g0" }),
      await authority.issue("driver", { name: "g0" }),
    );
    const payload = new Uint8Array(3_000_000).map((_, index) => index % 253);
    await driver.last!.link.send({ at: 1 }, [payload]);
    await until(() => stage.last?.frames.length === 1);
    expect(Buffer.compare(stage.last!.frames[0]!.payload, payload)).toBe(0);
  });

  test("takes the configured name instead of the group's", async () => {
    const peerNames = ["ranks.example"];
    const { driver } = await attempt(
      { ...(await authority.issue("stage", { name: "ranks.example" })), peerNames },
      { ...(await authority.issue("driver", { name: "ranks.example" })), peerNames },
    );
    expect(driver.links.length).toBe(1);
  });

  test.each([
    ["another group's name", { name: "g1" }, "g1"],
    ["a certificate that has expired", { name: "g0", validDays: -1 }, "CERT_HAS_EXPIRED"],
  ])("refuses a driver with %s, and says why at both ends", async (_, facts, said) => {
    const { stage, driver } = await attempt(
      await authority.issue("stage", { name: "g0" }),
      await authority.issue("driver", facts),
    );
    const refused = { reason: "PEER_NOT_TRUSTED", message: expect.stringContaining(said) };
    expect(driver.downs[0]!.error).toMatchObject(refused);
    expect(stage.refusals).toMatchObject([refused]);
    expect(stage.links).toEqual([]);
  });

  test.each([
    ["another group's name", { name: "g1" }, "g1"],
    ["a certificate that has expired", { name: "g0", validDays: -1 }, "CERT_HAS_EXPIRED"],
  ])("refuses a stage with %s, and says why at both ends", async (_, facts, said) => {
    const { stage, driver } = await attempt(
      await authority.issue("stage", facts),
      await authority.issue("driver", { name: "g0" }),
    );
    const refused = { reason: "PEER_NOT_TRUSTED", message: expect.stringContaining(said) };
    expect(driver.downs[0]!.error).toMatchObject(refused);
    await until(() => stage.refusals.length === 1);
    expect(stage.refusals).toMatchObject([refused]);
    expect([stage.links, driver.links]).toEqual([[], []]);
  });

  test("refuses a certificate of another authority", async () => {
    const other = await TestAuthority.create(bench.folder, "other");
    const { stage, driver } = await attempt(
      await authority.issue("stage", { name: "g0" }),
      await other.issue("driver", { name: "g0" }),
    );
    expect(driver.downs[0]!.error.reason).toBe("PEER_NOT_TRUSTED");
    await until(() => stage.refusals.length === 1);
    expect(stage.refusals[0]!.reason).toBe("PEER_NOT_TRUSTED");
    expect([stage.links, driver.links]).toEqual([[], []]);
  });

  test("does not talk to an end without it, whichever that is", async () => {
    const security = await authority.issue("both", { name: "g0" });
    const plainDriver = await attempt(security, undefined);
    expect(plainDriver.driver.links).toEqual([]);
    await until(() => plainDriver.stage.refusals.length === 1);
    expect(plainDriver.stage.refusals[0]!.reason).toBe("TLS_FAILED");
    const plainStage = await attempt(undefined, security);
    expect(plainStage.driver.downs[0]!.error.reason).toBe("TLS_FAILED");
    expect(plainStage.stage.refusals[0]).toMatchObject({
      reason: "FRAME_MAGIC",
      message: expect.stringContaining("both ends or none use TLS"),
    });
  });

  test("gives no link to a peer that shows no certificate, whatever it says", async () => {
    const security = await authority.issue("stage", { name: "g0" });
    const stage = await bench.listen({ address: tcp, security });
    const { port } = stage.address as { port: number };
    const peer = connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false });
    bench.onClose(async () => void peer.destroy());
    peer.on("error", () => undefined);
    const received: Buffer[] = [];
    peer.on("data", (bytes: Buffer) => received.push(bytes));
    peer.write(controlFrame("hello", validHello));
    peer.write(controlFrame("accept"));
    await new Promise((resolve) => peer.once("close", resolve));
    expect(stage.side.refusals).toMatchObject([{ reason: "PEER_NOT_TRUSTED" }]);
    expect(Buffer.concat(received).toString()).toContain("PEER_NOT_TRUSTED");
    expect(stage.side.links).toEqual([]);
  });

  test("drops a peer that never begins it", async () => {
    const security = await authority.issue("stage", { name: "g0" });
    const limits = impatientLimits();
    const stage = await bench.listen({ address: tcp, security, limits });
    const peer = new RawPeer(bench, stage.address);
    await until(() => peer.isClosed);
    expect(stage.side.refusals).toMatchObject([{ reason: "HANDSHAKE_TIMEOUT" }]);
  });

  test("names the files when they cannot be used", async () => {
    const security = await authority.issue("both", { name: "g0" });
    const { driver } = await attempt(security, { ...security, keyFile: "/nowhere/driver.key" });
    expect(driver.downs[0]!.error).toMatchObject({
      reason: "TLS_FILES",
      message: expect.stringContaining("/nowhere/driver.key"),
    });
  });

  test("takes renewed files at the next connection", async () => {
    const stage = await bench.listen({
      address: tcp,
      security: await authority.issue("stage", { name: "g0" }),
    });
    const security = await authority.issue("driver", { name: "g0", validDays: -1 });
    const driver = bench.dial(stage.address, { security });
    await until(() => driver.side.downs.length > 0);
    expect(driver.side.downs[0]!.error.reason).toBe("PEER_NOT_TRUSTED");
    await authority.issue("driver", { name: "g0" });
    await until(() => driver.dialer.link !== undefined);
    const other = await TestAuthority.create(bench.folder, "authority");
    await other.issue("stage", { name: "g0" });
    await other.issue("driver", { name: "g0" });
    driver.dialer.link!.close("its certificate is renewed");
    await until(() => driver.side.links.length === 2);
  });
});

describe("a listening path", () => {
  const path = () => (bench.socketAddress() as { path: string }).path;

  test("is open to its owner alone, and gone when the listener closes", async () => {
    const stage = await bench.listen();
    expect(statSync(path()).mode & 0o777).toBe(0o600);
    expect(readdirSync(bench.folder)).toEqual(["stage.sock"]);
    await stage.listener.close();
    expect(existsSync(path())).toBe(false);
  });

  test("on which somebody listens is left alone", async () => {
    await bench.listen();
    await expect(bench.listen()).rejects.toMatchObject({
      reason: "ADDRESS_IN_USE",
      message: expect.stringContaining(path()),
    });
    const driver = bench.dial(bench.socketAddress());
    await until(() => driver.dialer.link !== undefined);
  });

  test("that is a file is left alone", async () => {
    writeFileSync(path(), "precious");
    await expect(bench.listen()).rejects.toMatchObject({ reason: "ADDRESS_IN_USE" });
    expect(readFileSync(path(), "utf8")).toBe("precious");
  });

  test("in a folder that is not there is refused", async () => {
    const address: LinkAddress = { kind: "unix", path: `${bench.folder}/none/stage.sock` };
    await expect(bench.listen({ address })).rejects.toMatchObject({ reason: "ADDRESS_NOT_USABLE" });
  });
});

test("a port that is taken is refused by name", async () => {
  const { address } = await bench.listen({ address: tcp });
  await expect(bench.listen({ address })).rejects.toMatchObject({ reason: "ADDRESS_IN_USE" });
});

test("a stream that others on the network could read is warned about", async () => {
  const open = await bench.listen({ address: { kind: "tcp", host: "0.0.0.0", port: 0 } });
  const closed = await bench.listen({ address: tcp });
  const warnings = (side: LinkSide) => side.lines.filter(({ level }) => level === "warn");
  expect(warnings(open.side).map(({ message }) => message)).toEqual([
    "the stage link is not encrypted and checks no certificate; configure TLS files",
  ]);
  expect(warnings(closed.side)).toEqual([]);
});
