/**
 * Which waiting job goes to which replica group: one that serves the model it was admitted for.
 * In turn (arrival plus the patience of the class): when the first job of a model fits nowhere, no
 * other of that model overtakes it. A suspect (it may have killed a runner) runs alone, so it waits for
 * an empty group, which gets nothing else meanwhile; the others go on elsewhere.
 */
import { PLACEMENTS_PER_STEP_MAX } from "./limits.ts";

export interface WaitingJob {
  readonly key: string;
  /** Images still to be made. */
  readonly units: number;
  readonly suspect: boolean;
  readonly modelDigest: string;
  /** The class of its checkpoints; empty if it has none. */
  readonly numericsClass: string;
}

export interface OpenGroup {
  readonly group: string;
  readonly incarnation: string;
  readonly modelDigest: string;
  readonly numericsClass: string;
  /** Most image units resident at a time. */
  readonly residentsMax: number;
  /** Image units that are on it, whoever put them there. */
  readonly load: number;
  /** Runs a suspect now. */
  readonly exclusive: boolean;
}

export interface PlacementDecision {
  readonly key: string;
  readonly group: string;
  readonly incarnation: string;
}

interface Candidate extends OpenGroup {
  load: number;
  closed: boolean;
}

/** `waiting` in the order of their turns. */
export function decidePlacements(
  waiting: Iterable<WaitingJob>,
  groups: readonly OpenGroup[],
): PlacementDecision[] {
  const candidates: Candidate[] = groups.map((group) => ({ ...group, closed: group.exclusive }));
  const decisions: PlacementDecision[] = [];
  for (const job of waiting) {
    if (decisions.length >= PLACEMENTS_PER_STEP_MAX) break;
    if (candidates.every((candidate) => candidate.closed)) break;
    const able = candidates.filter(({ modelDigest }) => modelDigest === job.modelDigest);
    const chosen = job.suspect ? emptyGroup(able) : roomiestGroup(job, able);
    if (chosen) {
      chosen.load += slotsOf(job, chosen);
      chosen.closed = job.suspect;
      decisions.push({ key: job.key, group: chosen.group, incarnation: chosen.incarnation });
    } else if (job.suspect) {
      reserve(able);
    } else {
      for (const candidate of able) candidate.closed = true;
    }
  }
  return decisions;
}

/** A job with more images than a group takes at a time still goes there: it fills the group. */
export function slotsOf(job: { units: number }, group: { residentsMax: number }): number {
  return Math.min(Math.max(job.units, 1), Math.max(group.residentsMax, 1));
}

function emptyGroup(candidates: readonly Candidate[]): Candidate | undefined {
  return candidates.find((candidate) => !candidate.closed && candidate.load === 0);
}

function roomiestGroup(job: WaitingJob, candidates: readonly Candidate[]): Candidate | undefined {
  let best: { candidate: Candidate; sameClass: boolean; room: number } | undefined;
  for (const candidate of candidates) {
    const room = candidate.residentsMax - candidate.load;
    if (candidate.closed || room < slotsOf(job, candidate)) continue;
    const sameClass = job.numericsClass === "" || job.numericsClass === candidate.numericsClass;
    const better =
      !best || (sameClass && !best.sameClass) || (sameClass === best.sameClass && room > best.room);
    if (better) best = { candidate, sameClass, room };
  }
  return best?.candidate;
}

/** The least loaded group empties for the suspect. */
function reserve(candidates: readonly Candidate[]): void {
  let least: Candidate | undefined;
  for (const candidate of candidates) {
    if (!candidate.closed && (!least || candidate.load < least.load)) least = candidate;
  }
  if (least) least.closed = true;
}
