/**
 * `npm run soak -- --minutes 60 [--folder out/soak]`: strikes for as long as is asked, while one
 * scheduler and one group live through all of it, and whether those grow. What was done is kept in
 * the folder, so that a soak that was cut off goes on where it was; `--fresh` begins a new one.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { textTable } from "../../services/cli/src/view/text-table.ts";
import { catalogueOf } from "./catalogue.ts";
import { Cluster } from "./cluster.ts";
import { growthOf, leakOf, type Sample } from "./growth.ts";
import type { Member } from "./member.ts";
import { Observer } from "./observer.ts";
import { drawPlan } from "./plan.ts";
import { drawUndisturbed, runChaos } from "./run.ts";

/** What a cut soak goes on from. */
interface State {
  readonly seed: number;
  minutes: number;
  rounds: number;
  strikes: number;
  jobs: number;
  images: number;
  stepsNeeded: number;
  stepsAgain: number;
  /** By session (a process lives in one only) and process. */
  samples: Record<string, Sample[]>;
}

const KILLS_A_ROUND = 10;
const SAMPLE_EVERY_MS = 5_000;
const CHECKPOINT_EVERY_MS = 300;
/** Ended jobs leave the leader's memory by then, as they do after a day in earnest. */
const EXPIRE_MS = 5 * 60_000;
const SEED_MAX = 1_000_000;
const MIB = 1024 * 1024;
const shape = { kills: KILLS_A_ROUND, groups: 2, stages: 2, schedulers: 2 };
const spared = ["scheduler 0", "g0 driver", "g0 stage 1"];

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "60" },
    folder: { type: "string", default: "out/soak" },
    seed: { type: "string", default: String(Math.floor(Math.random() * SEED_MAX)) },
    fresh: { type: "boolean", default: false },
  },
});
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new Error(`--minutes is ${values.minutes}; use a number above 0`);
if (values.fresh) rmSync(values.folder, { recursive: true, force: true });
mkdirSync(values.folder, { recursive: true });
const stateFile = join(values.folder, "state.json");
const state: State = existsSync(stateFile)
  ? (JSON.parse(readFileSync(stateFile, "utf8")) as State)
  : {
      seed: Number(values.seed),
      minutes: 0,
      rounds: 0,
      strikes: 0,
      jobs: 0,
      images: 0,
      stepsNeeded: 0,
      stepsAgain: 0,
      samples: {},
    };
const session = `session ${new Set(Object.keys(state.samples).map((key) => key.split(":")[0])).size + 1}`;
console.log(
  `seed ${state.seed}: ${state.minutes.toFixed(1)} of ${minutes} minutes done, ` +
    `${state.strikes} strikes; ${spared.join(", ")} live through all of it; state in ${stateFile}`,
);

const folder = join(values.folder, session.replace(" ", "-"));
const cluster = await Cluster.start({ ...shape, folder, checkpointEveryMs: CHECKPOINT_EVERY_MS });
const observer = await Observer.start(cluster.nats.url, join(folder, "trace.log"));
const catalogue = catalogueOf(12);
const expected = await drawUndisturbed(cluster, catalogue);
const lasting: Readonly<Record<string, Member>> = {
  "scheduler 0": cluster.schedulers[0]!,
  "g0 driver": cluster.groups[0]!.ranks[0]!,
  "g0 stage 1": cluster.groups[0]!.ranks[1]!,
};
const pids = new Map(Object.entries(lasting).map(([name, { pid }]) => [name, pid]));
const begunMs = performance.now();
const doneBefore = state.minutes;
const sampling = setInterval(sample, SAMPLE_EVERY_MS);

const wrong: string[] = [];
while (wrong.length === 0 && state.minutes < minutes) {
  const plan = drawPlan({ ...shape, seed: state.seed + state.rounds, spared });
  const options = { plan, cluster, observer, catalogue, expected, clients: 4, expireMs: EXPIRE_MS };
  const result = await runChaos(options);
  wrong.push(...result.wrong.map((what) => `round ${state.rounds}, seed ${plan.seed}: ${what}`));
  state.rounds += 1;
  state.minutes = doneBefore + (performance.now() - begunMs) / 60_000;
  state.strikes += result.strikes.length;
  state.jobs += result.jobs;
  state.images += result.images;
  state.stepsNeeded += result.stepsNeeded;
  state.stepsAgain += result.losses.reduce((sum, { steps }) => sum + steps, 0);
  writeFileSync(stateFile, JSON.stringify(state));
  console.log(progressText());
}
clearInterval(sampling);
for (const [name, member] of Object.entries(lasting)) {
  if (member.pid !== pids.get(name)) wrong.push(`${name} did not live through it`);
}
await observer.stop();
wrong.push(...(await cluster.stop()));
report();

function sample(): void {
  for (const [name, pid] of pids) {
    // One that has died is told of at the end.
    if (lasting[name]!.pid !== pid) continue;
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const rssBytes = Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
    const files = readdirSync(`/proc/${pid}/fd`).length;
    (state.samples[`${session}:${name}`] ??= []).push({ atMs: performance.now(), rssBytes, files });
  }
}

function progressText(): string {
  const sizes = [...pids.keys()].map((name) => {
    const last = state.samples[`${session}:${name}`]?.at(-1);
    return `${name} ${((last?.rssBytes ?? 0) / MIB).toFixed(0)} MiB, ${last?.files ?? 0} files`;
  });
  return (
    `${state.minutes.toFixed(1).padStart(6)} min  ${state.strikes} strikes  ${state.jobs} jobs  ` +
    sizes.join("; ")
  );
}

function report(): void {
  const rows = Object.entries(state.samples).map(([name, samples]) => {
    const growth = growthOf(samples);
    const leak = leakOf(growth);
    if (leak !== undefined) wrong.push(`${name}: ${leak}`);
    const { rssBytesPerHour: slope, errorBytesPerHour: error = 0 } = growth;
    const mib = (bytes: number): string => (bytes / MIB).toFixed(1);
    return [
      name,
      String(growth.minutes),
      `${mib(growth.rssFirstBytes)} -> ${mib(growth.rssLastBytes)}`,
      slope === undefined ? "too short" : `${mib(slope)} +- ${mib(error)}`,
      `${growth.filesFirst} -> ${growth.filesLast}`,
    ];
  });
  console.log(textTable(["process", "minutes", "MiB at rest", "MiB an hour", "files"], rows));
  console.log(
    `${state.minutes.toFixed(1)} minutes, ${state.strikes} strikes, ${state.jobs} jobs, ` +
      `${state.images} images as undisturbed; ${state.stepsAgain} of ${state.stepsNeeded} image ` +
      "steps run again",
  );
  for (const what of wrong) console.error(`WRONG: ${what}`);
  if (wrong.length > 0) console.error(`logs: ${folder}`);
  process.exitCode = wrong.length > 0 ? 1 : 0;
}
