/**
 * A process with one end of a stage link, to be frozen and killed:
 * `stage-link-peer.ts listen|dial ADDRESS INCARNATION`. It answers each frame with its header, and
 * prints `up` and `down REASON`.
 */
import { Random } from "@fluxline/kernel/random.ts";
import type { Link } from "@fluxline/gpu-node/adapters/stage-link/link.ts";
import { parseLinkAddress } from "@fluxline/gpu-node/adapters/stage-link/link-address.ts";
import { LinkDialer } from "@fluxline/gpu-node/adapters/stage-link/link-dialer.ts";
import { LinkListener } from "@fluxline/gpu-node/adapters/stage-link/link-listener.ts";
import { driverIdentity, stageIdentity, testLimits } from "./stage-link.ts";

const [, , side, addressText = "", incarnation = ""] = process.argv;
const address = parseLinkAddress(addressText, "address");
const limits = testLimits();
const log = { info: () => undefined, warn: () => undefined };

function echo(link: Link) {
  console.log("up");
  return {
    onFrame: ({ header }: { header: unknown }) => link.send(header),
    onEnd: (error: { reason: string }) => console.log(`down ${error.reason}`),
  };
}

if (side === "listen") {
  const identity = { ...stageIdentity(1), incarnation };
  await new LinkListener({ address, identity, limits, log, onLink: echo }).listen();
  console.log("listening");
} else {
  new LinkDialer({
    address,
    identity: { ...driverIdentity, incarnation },
    expected: { role: "stage", rank: 1 },
    limits,
    log,
    random: new Random(1),
    pauseMs: { first: 5, max: 50 },
    onUp: echo,
    onDown: (error) => console.log(`down ${error.reason}`),
  }).start();
}
