/** What a run says at its end: a line per strike, and what the strikes cost together. */
import { textTable } from "../../services/cli/src/view/text-table.ts";
import type { Loss } from "./job-history.ts";
import { blowName, groupStruck, momentName, victimName } from "./plan.ts";
import type { RunResult, StrikeResult } from "./run.ts";

const WORST_SHOWN = 3;

export function strikeTable(result: RunResult): string {
  const rows = result.strikes.map((each, i) => [String(i + 1), ...strikeRow(each)]);
  return textTable(["#", "victim", "blow", "moment", "jobs", "recovery", "aim"], rows);
}

export function strikeRow({ strike, aimed, jobsHit, recoveryMs }: StrikeResult): string[] {
  return [
    victimName(strike.victim),
    blowName(strike.blow),
    momentName(strike.moment),
    String(jobsHit),
    recoveryMs === undefined ? "hasty" : `${(recoveryMs / 1000).toFixed(1)} s`,
    aimed ? "" : "moment did not come",
  ];
}

/** By kind of victim: how many strikes, how long until all went on, what was run again. */
export function summaryTable(result: RunResult): string {
  const kinds = Map.groupBy(result.strikes, ({ strike: { victim, blow } }) =>
    blow.kind === "kill" ? victim.part : `${victim.part} ${blow.kind}`,
  );
  const rows = [...kinds].map(([kind, strikes]) => {
    const waits = strikes.flatMap(({ recoveryMs }) => recoveryMs ?? []).sort((a, b) => a - b);
    const mayLose = strikes.some(({ strike }) => groupStruck(strike) !== undefined);
    return [
      kind,
      String(strikes.length),
      `${seconds(waits[Math.floor(waits.length / 2)])} / ${seconds(waits.at(-1))}`,
      mayLose ? "from the last checkpoint" : "the step in flight",
    ];
  });
  return textTable(["struck", "times", "recovery median / max", "may be run again"], rows);
}

/** Totals in sentences. */
export function totals(result: RunResult, checkpointEveryMs: number): string[] {
  const { losses, jobs, images, stepsNeeded } = result;
  const again = losses.reduce((sum, { steps }) => sum + steps, 0);
  const share = ((100 * again) / Math.max(stepsNeeded, 1)).toFixed(2);
  const recordable = losses.filter(({ unrecordable }) => !unrecordable);
  const others = losses.filter(({ unrecordable }) => unrecordable);
  return [
    `${jobs} jobs, ${images} images, ${stepsNeeded} image steps; every picture compared`,
    `placed again ${losses.length} times; ${again} image steps run again (${share}% of what was needed)`,
    `a checkpoint each ${seconds(checkpointEveryMs)} of work; work lost at a time:`,
    `  while NATS and a leader were there: ${spreadText(recordable)}`,
    `  while one of them was away, too: ${spreadText(others)}`,
    ...worstLosses(recordable, WORST_SHOWN).map(lossText),
  ];
}

function spreadText(losses: readonly Loss[]): string {
  const work = losses.map(({ workMs }) => workMs).sort((a, b) => a - b);
  const median = work[Math.floor(work.length / 2)];
  return `${losses.length} times, median ${seconds(median)}, most ${seconds(work.at(-1))}`;
}

function worstLosses(losses: readonly Loss[], count: number): Loss[] {
  const costly = losses.filter(({ steps }) => steps > 0);
  return costly.toSorted((a, b) => b.workMs - a.workMs).slice(0, count);
}

function lossText({ job, attempt, group, steps, workMs }: Loss): string {
  return `  ${job}, attempt ${attempt} on ${group}: ${steps} steps, ${seconds(workMs)}`;
}

function seconds(ms: number | undefined): string {
  return ms === undefined ? "-" : `${(ms / 1000).toFixed(2)} s`;
}
