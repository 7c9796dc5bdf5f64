/**
 * What became of one job, as the bus told it, and what must hold of it whatever is struck: it is
 * placed again only when its group was, it goes on from its last checkpoint, it ends once.
 */
import type { JobRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";

/** A strike, as far as a placement may suffer from it. */
export interface GroupStrike {
  readonly group: string;
  readonly atMs: number;
  /** It hands over, so that no step is lost. */
  readonly drained: boolean;
}

export interface Attempt {
  readonly attempt: bigint;
  readonly group: string;
  /** When the record that says so was seen. */
  readonly placedMs: number;
  /** Image steps that are in checkpoints and results when it begins. */
  readonly from: number;
  ran: boolean;
  firstStep: number | undefined;
  lastStep: number;
  lastMs: number;
  /** When each number of steps was reached first. */
  readonly reachedMs: Map<number, number>;
}

export interface Loss {
  readonly job: string;
  readonly attempt: bigint;
  readonly group: string;
  /** Image steps that were run and are run again. */
  readonly steps: number;
  /** How long ago the oldest of them was run when the group was last heard of. */
  readonly workMs: number;
  /** Nobody could record a checkpoint meanwhile: NATS or a scheduler had been struck. */
  readonly unrecordable: boolean;
}

/** From a kill until another scheduler leads. */
const TAKE_OVER_MS = 8_000;

export class JobHistory {
  readonly id: string;
  readonly attempts: Attempt[] = [];
  readonly violations: string[] = [];
  ends = 0;
  /** When its end was heard of. */
  endedMs = 0;
  state: State = State.STATE_UNSPECIFIED;
  readonly #checkpointSteps = new Map<number, number>();
  #mark = 0;

  constructor(id: string) {
    this.id = id;
  }

  /** A write of its record; `nowMs` is when we heard of it. */
  onRecord(record: JobRecord, nowMs: number): void {
    if (this.ends > 0) this.violations.push(`its record changed after its end: ${record.state}`);
    this.#checkCheckpoints(record);
    if (record.blamedFailures > 0) this.violations.push("it was blamed");
    const latest = this.attempts.at(-1);
    if (record.state === State.STATE_ASSIGNED && record.attempt !== latest?.attempt) {
      this.attempts.push({
        attempt: record.attempt,
        group: record.group,
        placedMs: nowMs,
        from: stepsKept(record),
        ran: false,
        firstStep: undefined,
        lastStep: 0,
        lastMs: nowMs,
        reachedMs: new Map(),
      });
    }
    if (record.state === State.STATE_RUNNING && record.attempt === latest?.attempt) {
      latest.ran = true;
    }
    this.state = record.state;
    if (record.state < State.STATE_SUCCEEDED) return;
    this.ends += 1;
    this.endedMs = nowMs;
  }

  onProgress(attempt: bigint, step: number, nowMs: number): void {
    const entry = this.attempts.at(-1);
    // A group that was fenced may still say something; nobody counts on it.
    if (entry?.attempt !== attempt) return;
    this.#mark += 1;
    entry.firstStep ??= step;
    entry.lastStep = Math.max(entry.lastStep, step);
    entry.lastMs = nowMs;
    if (!entry.reachedMs.has(step)) entry.reachedMs.set(step, nowMs);
  }

  /** Grows with everything that happens to the job. */
  get progressMark(): number {
    return this.#mark;
  }

  /** What is kept of an ended job is little. */
  forgetSteps(): void {
    for (const attempt of this.attempts) attempt.reachedMs.clear();
  }

  /**
   * What was run twice, placement by placement. `outages` are the times at which NATS or a scheduler
   * was struck.
   */
  losses(outages: readonly number[] = []): Loss[] {
    return this.attempts.slice(1).map((next, i) => {
      const before = this.attempts[i]!;
      const steps = Math.max(0, before.lastStep - next.from);
      const first = [...before.reachedMs].filter(([step]) => step > next.from);
      const oldestMs = Math.min(before.lastMs, ...first.map(([, atMs]) => atMs));
      return {
        job: this.id,
        attempt: before.attempt,
        group: before.group,
        steps,
        workMs: steps === 0 ? 0 : before.lastMs - oldestMs,
        unrecordable: outages.some(
          (atMs) => atMs > oldestMs - TAKE_OVER_MS && atMs < before.lastMs,
        ),
      };
    });
  }

  /** Everything that must not have happened. */
  judge(strikes: readonly GroupStrike[]): string[] {
    const wrong = [...this.violations];
    if (this.ends !== 1) wrong.push(`it ended ${this.ends} times`);
    for (const [i, next] of this.attempts.entries()) {
      if (next.firstStep !== undefined && next.firstStep < next.from) {
        const step = `${next.firstStep} and not at ${next.from}`;
        wrong.push(`attempt ${next.attempt} began at step ${step}, where its checkpoint is`);
      }
      const before = this.attempts[i - 1];
      if (before === undefined) continue;
      const causes = strikes.filter(
        ({ group, atMs }) =>
          group === before.group && atMs >= before.placedMs && atMs <= next.placedMs,
      );
      // One that had not begun may be placed again without a strike on its group: the answer to
      // its assign may have been lost with NATS or the scheduler.
      if (causes.length === 0 && before.ran) {
        wrong.push(
          `attempt ${before.attempt} was taken from ${before.group}, which was not struck`,
        );
      }
    }
    return wrong;
  }

  #checkCheckpoints(record: JobRecord): void {
    for (const { index, checkpointStep, result } of record.units) {
      const before = this.#checkpointSteps.get(index) ?? 0;
      if (result === undefined && checkpointStep < before) {
        this.violations.push(
          `the checkpoint of image ${index} went back from step ${before} to ${checkpointStep}`,
        );
      }
      this.#checkpointSteps.set(index, checkpointStep);
    }
  }
}

/** Image steps that need not be run again. */
function stepsKept({ units, spec }: JobRecord): number {
  const steps = spec?.numInferenceSteps ?? 0;
  return units.reduce(
    (sum, unit) => sum + (unit.result === undefined ? unit.checkpointStep : steps),
    0,
  );
}
