/**
 * What the stage link costs between two processes of this machine: throughput of activations of
 * 28 MB (one row of 1024x1024 at 16 bit), beside plain sockets that carry the same bytes and do
 * nothing with them, and the round trip of a small frame.
 *
 *   node test/bench/stage-link.ts
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Random } from "@fluxline/kernel/random.ts";
import type { Link } from "@fluxline/gpu-node/adapters/stage-link/link.ts";
import {
  type LinkAddress,
  linkAddressText,
  parseLinkAddress,
} from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import { LinkDialer } from "@fluxline/gpu-node/adapters/stage-link/link-dialer.ts";
import type { LinkIdentity } from "@fluxline/gpu-node/adapters/stage-link/link-identity.ts";
import { linkLimits } from "@fluxline/gpu-node/adapters/stage-link/link-limits.ts";
import { LinkListener } from "@fluxline/gpu-node/adapters/stage-link/link-listener.ts";
import { type Measurement, measurementTable, median } from "./measurement.ts";

const FRAME_BYTES = 28_311_552;
const FRAMES = 40;
const ROUNDS = 5;
const PINGS = 2_000;

const driver: LinkIdentity = {
  role: "driver",
  pool: "bench",
  group: "bench",
  incarnation: "bench",
  rank: 0,
  stages: 2,
  planDigest: "",
  modelDigest: "",
  numericsClass: "",
};
const stage: LinkIdentity = { ...driver, role: "stage", rank: 1 };
const limits = linkLimits({ payloadBytesMax: FRAME_BYTES });
const log = { info: () => undefined, warn: () => undefined };

/** The other process: answers small frames and the last of the large ones. */
async function serve(kind: "link" | "plain", address: LinkAddress): Promise<void> {
  if (kind === "link") {
    const onLink = (link: Link) => ({
      onFrame: (frame: { header: unknown }) => {
        if ((frame.header as { answer: boolean }).answer) return link.send({});
      },
      onEnd: () => process.exit(),
    });
    const bound = await new LinkListener({
      address,
      identity: stage,
      limits,
      log,
      onLink,
    }).listen();
    console.log(linkAddressText(bound));
    return;
  }
  const server = createServer((socket) => {
    let bytes = 0;
    socket.setNoDelay(true);
    socket.on("data", (chunk) => {
      bytes += chunk.length;
      if (bytes >= FRAMES * FRAME_BYTES) {
        bytes = 0;
        socket.write("!");
      }
    });
    socket.on("close", () => process.exit());
  });
  const listening = () => {
    const bound = server.address();
    const port = typeof bound === "object" && bound !== null ? bound.port : 0;
    console.log(linkAddressText(address.kind === "unix" ? address : { ...address, port }));
  };
  if (address.kind === "unix") server.listen(address.path, listening);
  else server.listen(address.port, address.host, listening);
}

/** Starts the other process; resolves to where it listens. */
async function startServer(kind: "link" | "plain", address: LinkAddress) {
  const script = fileURLToPath(import.meta.url);
  const child = spawn(process.execPath, [script, kind, linkAddressText(address)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout });
  const line = await new Promise<string>((resolve, reject) => {
    lines.once("line", resolve);
    child.once("close", () => reject(new Error("the other process ended before it listened")));
  });
  return { address: parseLinkAddress(line, "address"), stop: () => child.kill("SIGKILL") };
}

interface Figures {
  readonly gigabytesPerSecond: number;
  /** Of a frame without a payload, there and back. */
  readonly roundTripMs: number;
}

async function measureLink(address: LinkAddress): Promise<Figures> {
  const up = Promise.withResolvers<Link>();
  let answered: () => void = () => undefined;
  const dialer = new LinkDialer({
    address,
    identity: driver,
    expected: { role: "stage", rank: 1 },
    limits,
    log,
    random: new Random(1),
    onUp: (link) => {
      up.resolve(link);
      return { onFrame: () => answered(), onEnd: (error) => up.reject(error) };
    },
    onDown: (error) => up.reject(error),
  });
  dialer.start();
  const link = await up.promise;
  const answer = () => new Promise<void>((resolve) => (answered = resolve));
  const payload = [new Uint8Array(FRAME_BYTES)];
  const seconds: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const begun = performance.now();
    for (let at = 1; at < FRAMES; at++) await link.send({ answer: false }, payload);
    const last = answer();
    await Promise.all([link.send({ answer: true }, payload), last]);
    seconds.push((performance.now() - begun) / 1000);
  }
  const trips: number[] = [];
  for (let ping = 0; ping < PINGS; ping++) {
    const begun = performance.now();
    await Promise.all([answer(), link.send({ answer: true })]);
    trips.push(performance.now() - begun);
  }
  await dialer.stop();
  return { gigabytesPerSecond: perSecond(seconds), roundTripMs: median(trips) };
}

async function measurePlain(address: LinkAddress): Promise<number> {
  const socket: Socket = connect(
    address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port },
  );
  const payload = new Uint8Array(FRAME_BYTES);
  const seconds: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const begun = performance.now();
    const answered = new Promise((resolve) => socket.once("data", resolve));
    for (let at = 0; at < FRAMES; at++) {
      await new Promise((resolve) => socket.write(payload, resolve));
    }
    await answered;
    seconds.push((performance.now() - begun) / 1000);
  }
  socket.destroy();
  return perSecond(seconds);
}

const perSecond = (seconds: number[]): number => (FRAMES * FRAME_BYTES) / median(seconds) / 1e9;

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "stage-link-bench-"));
  const measurements: Measurement[] = [];
  for (const kind of ["unix", "tcp"] as const) {
    const address = (name: string): LinkAddress =>
      kind === "unix" ? { kind, path: join(folder, name) } : { kind, host: "127.0.0.1", port: 0 };
    const plain = await startServer("plain", address("plain"));
    const plainFigure = await measurePlain(plain.address);
    plain.stop();
    const link = await startServer("link", address("link"));
    const figures = await measureLink(link.address);
    link.stop();
    const note = `median of ${ROUNDS} rounds of ${FRAMES} frames of 28 MB`;
    measurements.push(
      { name: `${kind}: stage link`, value: figures.gigabytesPerSecond, unit: "GB/s", note },
      { name: `${kind}: plain socket`, value: plainFigure, unit: "GB/s", note },
      {
        name: `${kind}: stage link / plain socket`,
        value: figures.gigabytesPerSecond / plainFigure,
        unit: "",
        note: "the plain one keeps no bytes",
      },
      {
        name: `${kind}: small frame, there and back`,
        value: figures.roundTripMs,
        unit: "ms",
        note: `median of ${PINGS}`,
      },
    );
  }
  rmSync(folder, { recursive: true, force: true });
  console.log(measurementTable(measurements));
}

const [, , kind, address] = process.argv;
if (kind === "link" || kind === "plain") await serve(kind, parseLinkAddress(address!, "address"));
else await main();
