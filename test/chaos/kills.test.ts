/** Twenty seeded kills: every picture comes, once, with the bytes of the undisturbed run. */
import { expect, test } from "vitest";
import { join } from "node:path";
import { catalogueOf } from "./catalogue.ts";
import { Cluster } from "./cluster.ts";
import { Observer } from "./observer.ts";
import { drawPlan, victimName } from "./plan.ts";
import { totals } from "./report.ts";
import { drawUndisturbed, runChaos } from "./run.ts";

/** Drawn such that every kind of victim is among them; FLUXLINE_CHAOS_SEED draws others. */
const SEED = Number(process.env["FLUXLINE_CHAOS_SEED"] ?? 4);
const KILLS = 20;
const CHECKPOINT_EVERY_MS = 300;
const shape = { seed: SEED, kills: KILLS, groups: 2, stages: 2, schedulers: 2 };

test("a plan follows from its seed, and strikes every kind of part", () => {
  const plan = drawPlan(shape);
  expect(drawPlan(shape)).toEqual(plan);
  expect(drawPlan({ ...shape, seed: SEED + 1 })).not.toEqual(plan);
  const parts = drawPlan({ ...shape, kills: 400 }).strikes.map(({ victim }) => victim.part);
  expect(new Set(parts)).toEqual(
    new Set(["driver", "stage", "runner", "group", "scheduler", "nats"]),
  );
});

test("what is spared is never ended, not even with its group", () => {
  const spared = ["g0 driver", "g0 stage 1", "scheduler 0"];
  const { strikes } = drawPlan({ ...shape, kills: 400, spared });
  const names = new Set(strikes.map(({ victim }) => victimName(victim)));
  for (const name of spared) expect(names).not.toContain(name);
  expect(names).toContain("g0 runner 0");
});

test(`${KILLS} kills with seed ${SEED} cost no job anything`, { timeout: 400_000 }, async () => {
  const plan = drawPlan(shape);
  const { groups, stages, schedulers } = plan;
  const cluster = await Cluster.start({
    groups,
    stages,
    schedulers,
    checkpointEveryMs: CHECKPOINT_EVERY_MS,
  });
  const observer = await Observer.start(cluster.nats.url, join(cluster.folder, "trace.log"));
  const catalogue = catalogueOf(8);
  const expected = await drawUndisturbed(cluster, catalogue);
  const result = await runChaos({ plan, cluster, observer, catalogue, expected, clients: 4 });
  await observer.stop();
  const wrong = [...result.wrong, ...(await cluster.stop())];
  console.log(totals(result, CHECKPOINT_EVERY_MS).join("\n"));
  expect(
    wrong,
    `npm run chaos -- --kills ${KILLS} --seed ${SEED}; logs: ${cluster.folder}`,
  ).toEqual([]);
  expect(result.strikes.filter(({ strike }) => strike.blow.kind === "kill")).toHaveLength(KILLS);
  cluster.removeFolder();
});
