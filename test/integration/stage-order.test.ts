/** A stage is told what it has to keep before the calls that need it, whatever the way takes. */
import { Random } from "@fluxline/kernel/random.ts";
import { float32Tensor } from "@fluxline/gpu-node/core/tensor.ts";
import { StageLinks } from "@fluxline/gpu-node/adapters/stage-links.ts";
import type { Link } from "@fluxline/gpu-node/adapters/stage-link/link.ts";
import { LinkListener } from "@fluxline/gpu-node/adapters/stage-link/link-listener.ts";
import { type DriverToStage, driverToStage } from "@fluxline/gpu-node/adapters/stage-message.ts";
import { expect, test } from "vitest";
import { driverIdentity, stageIdentity, testLimits } from "../support/stage-link.ts";

const log = { info: () => undefined, warn: () => undefined };
/** More than the system takes at once. */
const LARGE = float32Tensor(new Float32Array(1_500_000), [1_500_000]);
const SMALL = float32Tensor(new Float32Array([1]), [1]);

/** A stage that keeps whatever it is told to, and never answers a call. */
function answerTo(link: Link, message: DriverToStage): void {
  const health = { provider: "cpu", rssBytes: 0, restarts: 0, busySeconds: 0, upSeconds: 0 };
  const reply =
    message.kind === "begin"
      ? { kind: "status", ready: true, nextUp: true, ...health }
      : { kind: "retained", sequence: message.kind === "retain" ? message.sequence : 0 };
  if (message.kind === "begin" || message.kind === "retain") void link.send(reply, []);
}

test("a call comes behind what was retained for it", async () => {
  const identity = { ...driverIdentity, stages: 2 };
  const told: string[] = [];
  const called = Promise.withResolvers<void>();
  const listener = new LinkListener({
    address: { kind: "tcp", host: "127.0.0.1", port: 0 },
    identity: { ...stageIdentity(1), stages: 2 },
    limits: testLimits(),
    onLink: (link) => ({
      onFrame: (frame) => {
        const message = driverToStage(frame);
        told.push("key" in message ? `${message.kind} ${message.key}` : message.kind);
        answerTo(link, message);
        if (message.kind === "call") called.resolve();
      },
      onEnd: () => undefined,
    }),
    log,
  });
  const links = new StageLinks({
    identity,
    limits: testLimits(),
    random: new Random(1),
    addresses: [await listener.listen()],
    provider: "cpu",
    startMsMax: 60_000,
    awayMsMax: 10_000,
    onState: () => undefined,
    onDrainAsked: () => undefined,
    onBroken: () => undefined,
    log,
  });
  const [stage] = links.stages;
  await stage!.start();
  stage!.retain("large", { a: LARGE });
  stage!.retain("small", { b: SMALL });
  const call = stage!.run([
    { graph: "g", inputs: { b: [{ key: "small", name: "b" }] }, outputs: [] },
  ]);
  const given = expect(call).rejects.toMatchObject({ code: "cancelled" });
  await called.promise;
  await links.stop();
  await given;
  await listener.close();
  expect(told).toEqual(["begin", "retain large", "retain small", "call"]);
});
