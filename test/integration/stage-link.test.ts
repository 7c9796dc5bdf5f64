/** The stage link over real sockets: what comes through, what is refused, and how it ends. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { LinkAddress } from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import type { LinkSecurity } from "@fluxline/gpu-node/adapters/stage-link/link-security.ts";
import { TestAuthority } from "../support/certificates.ts";
import { LinkBench } from "../support/stage-link.ts";
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
