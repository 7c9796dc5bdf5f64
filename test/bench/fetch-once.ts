/**
 * A replica group of three stages on a checkpoint of random weights that only the test hub has: the
 * ranks fetch it into one cache, all of them are killed twice on the way, and then they serve. How many
 * bytes they needed, how many the hub sent, how long it took; and whether the picture is that of the
 * local folder.
 *
 *   npm run bench:fetch -- [--gib 1] [--stages 3] [--kills 2] [--mib-per-second 200] [--folder DIR]
 *
 * `--mib-per-second` is that of one connection. The checkpoint is made once and kept in the folder.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { startFetch } from "../support/fetch-process.ts";
import { type GroupProcess, startNode } from "../support/group-process.ts";
import { HubServer } from "../support/hub-server.ts";
import { LiveStack } from "../support/live-stack.ts";
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
/** By the name that it has on the hub, which stands in its pictures. */
const local = join(cache, "local", "random");
mkdirSync(join(cache, "local"));
symlinkSync(resolve(model), local);

const environment = { HF_ENDPOINT: hub.endpoint, FLUXLINE_CACHE: cache, HF_HOME: cache };
const stack = await LiveStack.start();
const started: GroupProcess[] = [];
const spec = { prompt: "a red circle", seed: 7n, width: 128, height: 128, numInferenceSteps: 4 };

/** Command lines of the ranks, on a model named like this. */
function rankArguments(group: string, named: string): string[][] {
  const ranks = Array.from({ length: stages }, (_, rank) => rank);
  const sockets = ranks.slice(1).map((rank) => `unix:${join(cache, `${group}-${rank}.sock`)}`);
  const shared = ["--group", group, "--stages", String(stages), "--model", named];
  return ranks.map((rank) =>
    rank === 0
      ? ["serve", "--nats", stack.nats.url, ...shared, "--stage-addresses", sockets.join(",")]
      : ["stage", ...shared, "--rank", String(rank), "--listen", sockets[rank - 1]!],
  );
}

/** The group, ready; its picture's digest. */
async function draw(group: string, named: string): Promise<string[]> {
  const ranks = await Promise.all(
    rankArguments(group, named).map((args) => startNode(args, environment, WAIT_MS_MAX)),
  );
  started.push(...ranks);
  const pictures = await stack.pictures(await stack.begin(spec));
  for (const rank of ranks) await rank.terminate();
  return pictures;
}

/** Ranks that are killed before they are ready. */
async function interrupted(bytes: number): Promise<void> {
  const ranks = rankArguments("g-hub", name).map((args) => startFetch(args, environment));
  await until(() => hub.bytesServed() > bytes, WAIT_MS_MAX);
  await Promise.all(ranks.map((rank) => rank.kill()));
}

try {
  hub.bytesPerSecond = Number(values["mib-per-second"]) * MIB;
  const begunMs = performance.now();
  const killedAt: number[] = [];
  for (let kill = 1; kill <= kills; kill++) {
    await interrupted((size * kill) / (kills + 1));
    killedAt.push(hub.bytesServed());
  }
  const fromHub = await draw("g-hub", name);
  const seconds = (performance.now() - begunMs) / 1000;
  const served = hub.bytesServed();
  const again = hub.bytesAgain();
  const fromFolder = await draw("g-folder", local);
  const report = {
    checkpointBytes: size,
    stages,
    interruptions: killedAt.length,
    killedAtBytes: killedAt,
    bytesNeeded: served - again,
    bytesServed: served,
    bytesAgain: again,
    servedOverNeeded: Number((served / (served - again)).toFixed(4)),
    secondsToPicture: Number(seconds.toFixed(1)),
    pictureIsThatOfTheFolder: fromHub.join() === fromFolder.join(),
  };
  console.log(JSON.stringify(report, undefined, 2));
  if (!report.pictureIsThatOfTheFolder) process.exitCode = 1;
} finally {
  await stack.stop();
  for (const rank of started) await rank.kill();
  await hub.close();
  rmSync(cache, { recursive: true, force: true });
}
