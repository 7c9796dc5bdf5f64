/**
 * `npm run determinism`: the whole matrix, case by case, with a table at the end. A run that was cut
 * goes on where it stopped when it is given the same seed.
 *
 *   --seed N        draws the cases; printed, and by default drawn by chance
 *   --only TEXT     cases whose name contains it, run again even if they are done
 *   --minutes N     begins no case after so many minutes (default 60)
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { createHash, randomInt } from "node:crypto";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import Table from "cli-table3";
import { runCase } from "./case-run.ts";
import { GroupPool } from "./group-pool.ts";
import { matrixCases } from "./matrix-axes.ts";
import type { MatrixCase } from "./matrix-case.ts";
import { type MatrixModel, MatrixModels } from "./models.ts";

const OUT = fileURLToPath(new URL("../../out/determinism/", import.meta.url));
const MINUTES_DEFAULT = "60";
const RUNNERS_MAX = 16;
const SAY_EVERY_MS = 15_000;

interface Outcome {
  readonly name: string;
  /** Of model and case: what is drawn otherwise today has to run again. */
  readonly digest: string;
  readonly seconds: number;
  readonly latents: number;
  readonly pictures: number;
  readonly differences: readonly string[];
}

interface Drawn {
  readonly model: MatrixModel;
  readonly one: MatrixCase;
}

function options(): { seed: number; only: string | undefined; minutes: number } {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      only: { type: "string" },
      minutes: { type: "string", default: MINUTES_DEFAULT },
    },
  });
  const seed = values.seed === undefined ? randomInt(2 ** 31) : Number(values.seed);
  const minutes = Number(values.minutes);
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
    throw new Error(`--seed is ${values.seed}; use a whole number from 0 to ${2 ** 32 - 1}`);
  }
  if (!(minutes > 0)) throw new Error(`--minutes is ${values.minutes}; use a number above 0`);
  return { seed, only: values.only, minutes };
}

async function main(): Promise<number> {
  const { seed, only, minutes } = options();
  mkdirSync(OUT, { recursive: true });
  const file = `${OUT}${seed}.jsonl`;
  const done = new Map(earlier(file).map((outcome) => [outcome.name, outcome]));
  const models = await MatrixModels.open(seed);
  const groups = new GroupPool(RUNNERS_MAX);
  // Runners and stages end with this process.
  const cut = (): void => {
    models.removeFiles();
    console.log(`\ncut; to go on: npm run determinism -- --seed ${seed}`);
    process.exit(130);
  };
  process.once("SIGINT", cut).once("SIGTERM", cut);
  const all = models.all.flatMap((model) =>
    matrixCases(model.source).map((one): Drawn => ({ model, one })),
  );
  const chosen = all.filter(({ one }) => only === undefined || one.name.includes(only));
  const isDone = (each: Drawn): boolean => done.get(each.one.name)?.digest === digestOf(each);
  const left = chosen.filter((each) => only !== undefined || !isDone(each));
  console.log(`seed ${seed}: ${chosen.length} cases, ${chosen.length - left.length} done before.`);
  console.log(`Begins none after ${minutes} minutes. What is cut goes on with: --seed ${seed}`);
  const begun = Date.now();
  let said = begun;
  let count = 0;
  for (const each of left) {
    const { model, one } = each;
    if (Date.now() - begun > minutes * 60_000) break;
    const outcome = await timed(each, () => runCase(one, { ...partsOf(model), groups }));
    done.set(one.name, outcome);
    appendFileSync(file, `${JSON.stringify(outcome)}\n`);
    count += 1;
    for (const what of outcome.differences) console.log(`DIFFERENT ${one.name}: ${what}`);
    if (Date.now() - said < SAY_EVERY_MS && only === undefined) continue;
    said = Date.now();
    const seconds = Math.round((said - begun) / 1000);
    console.log(`${count} of ${left.length} cases, ${seconds} s, last ${one.name}`);
  }
  await groups.close();
  await models.close();
  const outcomes = chosen.flatMap((each) => (isDone(each) ? done.get(each.one.name)! : []));
  return report(outcomes, chosen.length, seed);
}

function partsOf({ reference, folder }: MatrixModel) {
  return { reference, folder };
}

async function timed(each: Drawn, run: () => ReturnType<typeof runCase>): Promise<Outcome> {
  const begun = performance.now();
  const { latentsCompared, picturesCompared, differences } = await run();
  const seconds = (performance.now() - begun) / 1000;
  const [latents, pictures] = [latentsCompared, picturesCompared];
  return { name: each.one.name, digest: digestOf(each), seconds, latents, pictures, differences };
}

function digestOf({ model, one }: Drawn): string {
  const { digest } = model.reference.model.profile;
  return createHash("sha256").update(digest).update(JSON.stringify(one)).digest("hex").slice(0, 16);
}

/** Outcomes of a run with this seed that was cut; its last line may be half written. */
function earlier(file: string): Outcome[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => JSON.parse(line) as Outcome);
}

function report(outcomes: readonly Outcome[], wanted: number, seed: number): number {
  const table = new Table({
    head: ["model", "axis", "cases", "different", "latents", "pictures", "seconds"],
    style: { head: [], border: [] },
  });
  const row = (model: string, axis: string, some: readonly Outcome[]): void => {
    const sum = (of: (outcome: Outcome) => number): number =>
      some.reduce((total, outcome) => total + of(outcome), 0);
    const different = sum(({ differences }) => Math.min(1, differences.length));
    const [latents, pictures] = [sum((one) => one.latents), sum((one) => one.pictures)];
    const seconds = sum((one) => one.seconds).toFixed(1);
    table.push([model, axis, some.length, different, latents, pictures, seconds]);
  };
  const key = ({ name }: Outcome): string => name.split("/").slice(0, 2).join("/");
  for (const group of new Set(outcomes.map(key))) {
    const [model = "", axis = ""] = group.split("/");
    row(
      model,
      axis,
      outcomes.filter((outcome) => key(outcome) === group),
    );
  }
  row("all", "", outcomes);
  console.log(table.toString());
  const wrong = outcomes.filter(({ differences }) => differences.length > 0);
  for (const { name } of wrong) {
    console.log(`Again: npm run determinism -- --seed ${seed} --only ${name}`);
  }
  if (outcomes.length < wanted) {
    console.log(`${wanted - outcomes.length} of ${wanted} cases are left: --seed ${seed}`);
  }
  return wrong.length > 0 ? 1 : 0;
}

process.exitCode = await main();
