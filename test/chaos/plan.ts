/**
 * What is done to a running stack, as a list that is drawn from a seed: which part is struck, how,
 * and at which moment. The same seed gives the same list, and a list can be written to a file, have
 * parts taken out, and be run again. When a moment comes depends on the machine; the order does not.
 */
import { Random } from "@fluxline/kernel/random.ts";

export type Victim =
  /** Rank 0 of a group; its runner dies with it. */
  | { readonly part: "driver"; readonly group: number }
  /** A rank above 0; its runner dies with it. */
  | { readonly part: "stage"; readonly group: number; readonly rank: number }
  /** The child of a rank that has the device. */
  | { readonly part: "runner"; readonly group: number; readonly rank: number }
  /** Every process of a group. */
  | { readonly part: "group"; readonly group: number }
  | { readonly part: "scheduler"; readonly replica: number }
  | { readonly part: "nats" };

export type Blow =
  | { readonly kind: "kill" }
  /** SIGTERM: it hands over what it has and exits 0. */
  | { readonly kind: "drain" }
  /** SIGSTOP, then SIGCONT; at least so long, and longer than it takes to be held for lost. */
  | { readonly kind: "freeze"; readonly holdMs: number };

export type Phase = "encoding" | "denoising" | "decoding" | "uploading";

export type Moment =
  | { readonly kind: "after"; readonly ms: number }
  /** When the victim's group (any group, if it has none) next says that it is in this phase. */
  | { readonly kind: "phase"; readonly phase: Phase; readonly thenMs: number }
  /** When the first bytes of a checkpoint pass through NATS. */
  | { readonly kind: "checkpoint" };

export interface Strike {
  readonly victim: Victim;
  readonly blow: Blow;
  readonly moment: Moment;
  /** Does not wait until the stack has recovered from the strike before. */
  readonly hasty: boolean;
}

export interface Plan {
  readonly seed: number;
  readonly stages: number;
  readonly groups: number;
  readonly schedulers: number;
  readonly strikes: readonly Strike[];
}

export interface PlanShape {
  readonly seed: number;
  /** How many; drains and freezes come on top. */
  readonly kills: number;
  readonly stages: number;
  readonly groups: number;
  readonly schedulers: number;
  /** Parts that live through the whole run, as `victimName` names them. */
  readonly spared?: readonly string[];
}

const HASTY_SHARE = 0.25;
const AFTER_MS_MAX = 1_200;
const THEN_MS_MAX = 15;
const GROUP_FREEZE_MS = 7_000;
const NATS_FREEZE_MS_MIN = 1_000;
const NATS_FREEZE_MS_MAX = 6_000;

/** How often each kind of strike is drawn; a freeze takes as long as ten kills, so it is rare. */
const WEIGHTS: readonly (readonly [number, (random: Random, shape: PlanShape) => Aim])[] = [
  [26, (random, shape) => ({ victim: anyDriver(random, shape), blow: { kind: "kill" } })],
  [30, (random, shape) => ({ victim: anyRunner(random, shape), blow: { kind: "kill" } })],
  [18, (random, shape) => ({ victim: anyStage(random, shape), blow: { kind: "kill" } })],
  [8, () => ({ victim: { part: "nats" }, blow: { kind: "kill" } })],
  [8, (random, shape) => ({ victim: anyScheduler(random, shape), blow: { kind: "kill" } })],
  [5, (random, shape) => ({ victim: anyRank(random, shape), blow: { kind: "drain" } })],
  [1, (random, shape) => ({ victim: anyScheduler(random, shape), blow: { kind: "drain" } })],
  [
    2,
    (random, { groups }) => ({
      victim: { part: "group", group: random.below(groups) },
      blow: { kind: "freeze", holdMs: GROUP_FREEZE_MS },
    }),
  ],
  [
    2,
    (random) => {
      const holdMs = NATS_FREEZE_MS_MIN + random.below(NATS_FREEZE_MS_MAX - NATS_FREEZE_MS_MIN + 1);
      return { victim: { part: "nats" }, blow: { kind: "freeze", holdMs } };
    },
  ],
];

type Aim = Pick<Strike, "victim" | "blow">;

export function drawPlan(shape: PlanShape): Plan {
  const random = new Random(shape.seed);
  const { seed, stages, groups, schedulers, spared = [] } = shape;
  const strikes: Strike[] = [];
  for (let kills = 0; kills < shape.kills;) {
    const strike = drawStrike(random, shape);
    if (touchesSpared(strike, spared)) continue;
    strikes.push(strike);
    if (strike.blow.kind === "kill") kills += 1;
  }
  return { seed, stages, groups, schedulers, strikes };
}

function drawStrike(random: Random, shape: PlanShape): Strike {
  const total = WEIGHTS.reduce((sum, [weight]) => sum + weight, 0);
  let ticket = random.below(total);
  const chosen = WEIGHTS.find(([weight]) => (ticket -= weight) < 0)!;
  const aim = chosen[1](random, shape);
  const hasty = random.float() < HASTY_SHARE;
  return { ...aim, moment: drawMoment(random), hasty };
}

function drawMoment(random: Random): Moment {
  const thenMs = random.below(THEN_MS_MAX + 1);
  const moments: readonly Moment[] = [
    { kind: "after", ms: random.below(AFTER_MS_MAX + 1) },
    { kind: "phase", phase: "denoising", thenMs },
    { kind: "phase", phase: "encoding", thenMs },
    { kind: "phase", phase: "decoding", thenMs },
    { kind: "phase", phase: "uploading", thenMs },
    { kind: "checkpoint" },
  ];
  return moments[random.below(moments.length)]!;
}

function anyDriver(random: Random, { groups }: PlanShape): Victim {
  return { part: "driver", group: random.below(groups) };
}

function anyRunner(random: Random, { groups, stages }: PlanShape): Victim {
  return { part: "runner", group: random.below(groups), rank: random.below(stages) };
}

/** Without ranks above 0 there are only drivers. */
function anyStage(random: Random, shape: PlanShape): Victim {
  if (shape.stages === 1) return anyDriver(random, shape);
  const rank = 1 + random.below(shape.stages - 1);
  return { part: "stage", group: random.below(shape.groups), rank };
}

function anyRank(random: Random, shape: PlanShape): Victim {
  const rank = random.below(shape.stages);
  const group = random.below(shape.groups);
  return rank === 0 ? { part: "driver", group } : { part: "stage", group, rank };
}

function anyScheduler(random: Random, { schedulers }: PlanShape): Victim {
  return { part: "scheduler", replica: random.below(schedulers) };
}

/** A runner is not spared with its rank: a rank must outlive it. A drain takes a whole group. */
function touchesSpared({ victim, blow }: Aim, spared: readonly string[]): boolean {
  if (spared.includes(victimName(victim))) return true;
  const takesGroup = "group" in victim && blow.kind === "drain";
  return takesGroup && spared.some((name) => name.startsWith(`g${victim.group} `));
}

export function victimName(victim: Victim): string {
  switch (victim.part) {
    case "driver":
      return `g${victim.group} driver`;
    case "stage":
      return `g${victim.group} stage ${victim.rank}`;
    case "runner":
      return `g${victim.group} runner ${victim.rank}`;
    case "group":
      return `g${victim.group} whole`;
    case "scheduler":
      return `scheduler ${victim.replica}`;
    case "nats":
      return "nats-server";
  }
}

export function blowName(blow: Blow): string {
  return blow.kind === "freeze" ? `freeze ${blow.holdMs} ms` : blow.kind;
}

export function momentName(moment: Moment): string {
  switch (moment.kind) {
    case "after":
      return `after ${moment.ms} ms`;
    case "phase":
      return `${moment.phase} + ${moment.thenMs} ms`;
    case "checkpoint":
      return "checkpoint write";
  }
}

/** The group whose residents a strike may send elsewhere; undefined if it must not cost a placement. */
export function groupStruck({ victim, blow }: Aim): number | undefined {
  switch (victim.part) {
    case "driver":
    case "group":
      return victim.group;
    case "stage":
      return blow.kind === "drain" ? victim.group : undefined;
    default:
      return undefined;
  }
}
