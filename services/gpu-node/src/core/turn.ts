/**
 * Whose turn it is: the order of everything that waits for a device.
 *
 *   tenant (tag of its account)  >  moment on one axis in ms  >  arrival here  >  image of the job
 *
 * The moment of a row is its arrival plus the patience of its class (kernel/priority-class.ts), or
 * its deadline if that is earlier. One that can no longer meet its deadline has the patience of
 * batch work: a lost cause steps behind those that can, but not for ever. It is looked at when the
 * row begins to wait and again when it comes to the front: a moment only ever moves back.
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
  /** The latest start that meets its deadline; never passes without one. */
  readonly latestStartMs: number;
  /** Its moment once that has passed. */
  readonly lateMs: number;
  /** Among its tenant's turns in the same line. */
  place: number;
}

export function patientMoment(terms: ServiceTerms, assignedMs: number): number {
  // A clock that is ahead of ours makes nobody wait longer.
  const arrivalMs = Math.min(terms.arrivalMs ?? assignedMs, assignedMs);
  return turnMs(arrivalMs, terms.priorityClass);
}

/** Of one that can no longer meet its deadline. */
export function lateMoment(terms: ServiceTerms, assignedMs: number): number {
  return patientMoment({ ...terms, priorityClass: "batch" }, assignedMs);
}

/** True when its deadline can no longer be met, and its moment does not say so yet. */
export function hasLapsed(turn: Turn, nowMs: number): boolean {
  return turn.latestStartMs < nowMs && turn.momentMs < turn.lateMs;
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
