/**
 * `npm run chaos -- --kills 200 [--seed N]`: strikes a real stack again and again while requests are
 * in flight, and fails unless every one of them gives the bytes of the undisturbed run, once.
 * `--plan FILE` runs a plan from a file instead: the one that a failed run leaves, or a part of it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { catalogueOf } from "./catalogue.ts";
import { Cluster } from "./cluster.ts";
import { Observer } from "./observer.ts";
import { drawPlan, type Plan } from "./plan.ts";
import { strikeRow, strikeTable, summaryTable, totals } from "./report.ts";
import { drawUndisturbed, type RunResult, runChaos } from "./run.ts";

const SECONDS_PER_STRIKE = 6;
const SECONDS_FIXED = 120;
/** A run that takes so many times its budget hangs. */
const BUDGET_FACTOR_MAX = 4;
const SEED_MAX = 1_000_000;

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "20" },
    seed: { type: "string" },
    plan: { type: "string" },
    stages: { type: "string", default: "2" },
    groups: { type: "string", default: "2" },
    schedulers: { type: "string", default: "2" },
    clients: { type: "string", default: "4" },
    requests: { type: "string", default: "16" },
    keep: { type: "boolean", default: false },
    "checkpoint-every-ms": { type: "string", default: "300" },
  },
});

function whole(name: Exclude<keyof typeof values, "keep">, min: number): number {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value >= min) return value;
  throw new Error(`--${name} is ${values[name]}; use a whole number from ${min}`);
}

function planToRun(): Plan {
  if (values.plan !== undefined) return JSON.parse(readFileSync(values.plan, "utf8")) as Plan;
  const seed = values.seed === undefined ? Math.floor(Math.random() * SEED_MAX) : whole("seed", 0);
  return drawPlan({
    seed,
    kills: whole("kills", 1),
    stages: whole("stages", 1),
    groups: whole("groups", 2),
    schedulers: whole("schedulers", 1),
  });
}

const plan = planToRun();
const checkpointEveryMs = whole("checkpoint-every-ms", 1);
const budgetSeconds = SECONDS_FIXED + plan.strikes.length * SECONDS_PER_STRIKE;
console.log(
  `seed ${plan.seed}: ${plan.strikes.length} strikes on ${plan.groups} groups of ${plan.stages} ` +
    `stages, ${plan.schedulers} schedulers and nats-server; about ${Math.ceil(budgetSeconds / 60)} min`,
);

const begunMs = performance.now();
const elapsed = (): string => `${((performance.now() - begunMs) / 1000).toFixed(1).padStart(6)} s`;
const { groups, stages, schedulers } = plan;
const cluster = await Cluster.start({ groups, stages, schedulers, checkpointEveryMs });
const planFile = join(cluster.folder, "plan.json");
writeFileSync(planFile, `${JSON.stringify(plan, undefined, 1)}\n`);
const hangs = setTimeout(
  () => {
    console.error(`not done after ${BUDGET_FACTOR_MAX} times its budget; see ${cluster.folder}`);
    process.exit(1);
  },
  budgetSeconds * BUDGET_FACTOR_MAX * 1000,
);

const observer = await Observer.start(cluster.nats.url, join(cluster.folder, "trace.log"));
const catalogue = catalogueOf(whole("requests", 1));
const expected = await drawUndisturbed(cluster, catalogue);
console.log(`${elapsed()}  ${catalogue.length} requests drawn undisturbed; the strikes begin`);
const result: RunResult = await runChaos({
  plan,
  cluster,
  observer,
  catalogue,
  expected,
  clients: whole("clients", 1),
  onStrike: (strike, number) => {
    const of = `${String(number).padStart(3)} of ${plan.strikes.length}`;
    console.log(`${elapsed()}  ${of}  ${strikeRow(strike).join("  ")}`);
  },
});
await observer.stop();
const wrong = [...result.wrong, ...(await cluster.stop())];
clearTimeout(hangs);

console.log(`\n${strikeTable(result)}\n\n${summaryTable(result)}\n`);
for (const line of totals(result, checkpointEveryMs)) console.log(line);
console.log(`seed ${plan.seed}, ${elapsed().trim()}`);
if (wrong.length > 0) {
  for (const what of wrong) console.error(`WRONG: ${what}`);
  console.error(
    `again: npm run chaos -- --plan ${planFile} (take strikes out of it to find the one)\n` +
      `logs: ${cluster.folder}`,
  );
  process.exit(1);
}
if (values.keep) console.log(`logs: ${cluster.folder}`);
else cluster.removeFolder();
