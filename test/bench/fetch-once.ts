/**
 * Three stages of a group fetch a checkpoint of random weights from the test hub into one cache, all of
 * them killed twice on the way: how many bytes they needed, how many the hub sent, how long it took.
 *
 *   npm run bench:fetch -- [--gib 1] [--stages 3] [--kills 2] [--mib-per-second 200] [--folder DIR]
 *
 * `--mib-per-second` is that of one connection. The checkpoint is made once and kept in the folder.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startFetch } from "../support/fetch-process.ts";
import { HubServer } from "../support/hub-server.ts";
import { until } from "../support/until.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";

const MIB = 2 ** 20;
const WAIT_MS_MAX = 600_000;
const { values } = parseArgs({
  options: {
    gib: { type: "string", default: "1" },
    stages: { type: "string", default: "3" },
    kills: { type: "string", default: "2" },
    "mib-per-second": { type: "string", default: "200" },
    folder: { type: "string", default: ".cache/bench" },
  },
});
const gib = Number(values.gib);
const stages = Number(values.stages);
const kills = Number(values.kills);

/** Width 1024; of 1 GiB 4 double blocks and 7 single ones, about. */
function sizeOf(wantedGib: number) {
  const blockBytes = { double: 36 * 4 * MIB, single: 15 * 4 * MIB };
  const doubleBlocks = Math.max(1, Math.round((wantedGib * 1024 * MIB * 0.58) / blockBytes.double));
  const rest = wantedGib * 1024 * MIB - doubleBlocks * blockBytes.double;
  const singleBlocks = Math.max(stages, Math.round(rest / blockBytes.single));
  return { heads: 32, headWidth: 32, doubleBlocks, singleBlocks };
}

const model = randomCheckpoint(values.folder, sizeOf(gib));
const hub = await HubServer.start();
const name = "org/random";
const { files } = await hub.serve(name, model);
const size = files.reduce((sum, file) => sum + file.size, 0);
const cache = mkdtempSync(join(tmpdir(), "fluxline-fetch-"));

function startRanks() {
  return Array.from({ length: stages }, (_, rank) => {
    const args = ["pull", "--model", name, "--stages", String(stages), "--rank", String(rank)];
    const environment = { HF_ENDPOINT: hub.endpoint, FLUXLINE_CACHE: cache, HF_HOME: cache };
    return startFetch(args, environment);
  });
}

try {
  hub.bytesPerSecond = Number(values["mib-per-second"]) * MIB;
  const begunMs = performance.now();
  const killedAt: number[] = [];
  for (let kill = 1; kill <= kills; kill++) {
    const ranks = startRanks();
    await until(() => hub.bytesServed() > (size * kill) / (kills + 1), WAIT_MS_MAX);
    await Promise.all(ranks.map((rank) => rank.kill()));
    killedAt.push(hub.bytesServed());
  }
  const ends = await Promise.all(startRanks().map(({ ended }) => ended));
  const seconds = (performance.now() - begunMs) / 1000;
  for (const { code, answer } of ends) if (code !== 0) throw new Error(JSON.stringify(answer));
  const served = hub.bytesServed();
  const again = hub.bytesAgain();
  const report = {
    checkpointBytes: size,
    stages,
    interruptions: killedAt.length,
    killedAtBytes: killedAt,
    bytesNeeded: served - again,
    bytesServed: served,
    bytesAgain: again,
    servedOverNeeded: Number((served / (served - again)).toFixed(4)),
    seconds: Number(seconds.toFixed(1)),
  };
  console.log(JSON.stringify(report, undefined, 2));
} finally {
  await hub.close();
  rmSync(cache, { recursive: true, force: true });
}
