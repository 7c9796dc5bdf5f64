/**
 * Whose turn it is: the order of everything that waits for a device.
 *
 *   tenant (tag of its account)  >  moment on one axis in ms  >  arrival here  >  image of the job
 *
 * The moment of a row is its arrival plus the patience of its class (kernel/priority-class.ts), or
 * the latest start that still meets its deadline, if that is earlier. A deadline that cannot be met
 * any more counts for nothing: a lost cause is helped no more. It is looked at when the row begins to
 * wait and again when it comes to the front: a moment only ever moves back.
 */
import { type PriorityClass, turnMs } from "@fluxline/kernel/priority-class.ts";
import type { TenantAccount, TenantClock } from "./tenant-clock.ts";

/** What a job may claim beside others; the same words in assignment, engine and driver. */
export interface ServiceTerms {
  readonly tenant: string;
  /** Weight of its tenant beside the others here; above 0. */
  readonly share: number;
  readonly priorityClass: PriorityClass;
  /** When it must be done, on the clock of `step`. */
  readonly deadlineMs?: number | undefined;
  /** When it was asked for, on the clock of `step`; by default when it is assigned. */
  readonly arrivalMs?: number | undefined;
}

/** Something that waits for its turn. */
export interface Turn {
  readonly account: TenantAccount;
  /** Order of the job's arrival here. */
  readonly sequence: number;
  /** Image of the job. */
  readonly unit: number;
  momentMs: number;
  /** The moment without the deadline. */
  readonly patientMs: number;
  /** Among its tenant's turns in the same line. */
  place: number;
}

export function patientMoment(terms: ServiceTerms, assignedMs: number): number {
  // A clock that is ahead of ours makes nobody wait longer.
  const arrivalMs = Math.min(terms.arrivalMs ?? assignedMs, assignedMs);
  return turnMs(arrivalMs, terms.priorityClass);
}

/** `remainingMs`: measured cost of the steps that are left. */
export function moment(
  patientMs: number,
  deadlineMs: number | undefined,
  remainingMs: number,
  nowMs: number,
): number {
  if (deadlineMs === undefined) return patientMs;
  const latestStartMs = deadlineMs - remainingMs;
  return latestStartMs >= nowMs ? Math.min(patientMs, latestStartMs) : patientMs;
}

/** True when the turn's moment was the latest start for a deadline, and has passed. */
export function hasLapsed(turn: Turn, nowMs: number): boolean {
  return turn.momentMs < turn.patientMs && turn.momentMs < nowMs;
}

/** Within one tenant. */
export function isSooner(a: Turn, b: Turn): boolean {
  if (a.momentMs !== b.momentMs) return a.momentMs < b.momentMs;
  if (a.sequence !== b.sequence) return a.sequence < b.sequence;
  return a.unit < b.unit;
}

/** Between tenants too. */
export function isAhead(a: Turn, b: Turn, clock: TenantClock): boolean {
  if (a.account === b.account) return isSooner(a, b);
  const [left, right] = [clock.tag(a.account), clock.tag(b.account)];
  return left !== right ? left < right : a.account.sequence < b.account.sequence;
}
