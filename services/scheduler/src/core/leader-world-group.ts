/** A replica group of the virtual world: obeys fences, works a step a tick, dies now and then. */
import { finishedUnit } from "./job-builder.ts";
import type { Fence, JobRecord } from "./job.ts";
import type { PlacementEvent } from "./job-transition.ts";
import type { AssignOutcome, Effect } from "./leader-protocol.ts";
import type { World } from "./leader-world.ts";

interface Resident {
  readonly fence: Fence;
  readonly record: JobRecord;
  readonly alone: boolean;
  readonly steps: number;
  step: number;
  ending: boolean;
}

export class WorldGroup {
  static readonly residentsMax = 3;
  readonly name: string;
  readonly #world: World;
  readonly #residents = new Map<string, Resident>();
  readonly #attempts = new Map<string, bigint>();
  #incarnation = 1;
  #leaderEpoch = 0n;
  #downUntilMs = 0;
  #nextBeatMs = 0;

  constructor(world: World, name: string) {
    this.#world = world;
    this.name = name;
  }

  get #up(): boolean {
    return this.#world.nowMs >= this.#downUntilMs;
  }

  /** Dies and comes back as another incarnation; or only hangs, and comes back as it was. */
  crash(downMs: number, hangs: boolean): void {
    this.#downUntilMs = this.#world.nowMs + downMs;
    if (hangs) return;
    this.#incarnation += 1;
    this.#residents.clear();
    this.#attempts.clear();
  }

  assigned(effect: Extract<Effect, { kind: "assign" }>): AssignOutcome {
    const { fence, record, alone } = effect;
    if (!this.#obeys(fence)) return { kind: this.#up ? "not-taken" : "unknown" };
    if ((this.#attempts.get(fence.job) ?? 0n) >= fence.attempt) return { kind: "not-taken" };
    this.#attempts.set(fence.job, fence.attempt);
    const steps = 2 + this.#world.random.below(8);
    const resident = { fence, record, alone, steps, step: 0, ending: false };
    this.#residents.set(fence.job, resident);
    const numericsClass = "c";
    const started = { kind: "started", numericsClass, simulated: false } as const;
    this.#report(fence, { ...started, restarted: false, advisories: [] }, () => {});
    return { kind: "accepted" };
  }

  /** False when the group does not hold it. */
  revoked(fence: Fence): boolean {
    const resident = this.#residents.get(fence.job);
    if (!this.#up) return true;
    if (!this.#obeys(fence) || resident?.fence.attempt !== fence.attempt) return false;
    if (!resident.ending) this.#end(resident, { kind: "released", units: [] });
    return true;
  }

  tick(): void {
    if (!this.#up) return;
    this.#beat();
    for (const resident of this.#residents.values()) {
      if (resident.ending) continue;
      resident.step += 1;
      if (resident.step >= resident.steps) this.#finish(resident);
    }
    if (this.#world.chance(0.01)) this.#runnerDies();
  }

  #obeys(fence: Fence): boolean {
    if (!this.#up || fence.incarnation !== this.#incarnationName) return false;
    if (fence.leaderEpoch < this.#leaderEpoch) return false;
    this.#leaderEpoch = fence.leaderEpoch;
    return true;
  }

  get #incarnationName(): string {
    return `${this.name}-${this.#incarnation}`;
  }

  #finish(resident: Resident): void {
    const attempt = Number(resident.fence.attempt);
    const units = resident.record.units.map(({ index }) => finishedUnit(index, attempt));
    this.#end(resident, { kind: "finished", units });
  }

  #runnerDies(): void {
    const residents = [...this.#residents.values()].filter(({ ending }) => !ending);
    const blamed = residents.length === 1;
    for (const resident of residents) {
      const failure = { code: "internal", reason: "RUNNER_DIED", message: "died" } as const;
      const fault = { blamed, suspect: !blamed, retryable: true };
      this.#end(resident, { kind: "failed", failure, ...fault });
    }
  }

  /** The resident stays listed until the leader has acknowledged how it ended. */
  #end(resident: Resident, event: PlacementEvent): void {
    resident.ending = true;
    this.#report(resident.fence, event, () => {
      if (this.#residents.get(resident.fence.job) === resident) {
        this.#residents.delete(resident.fence.job);
      }
    });
  }

  /** Again and again until there is an answer, unless this incarnation ends first. */
  #report(fence: Fence, event: PlacementEvent, done: () => void): void {
    const incarnation = this.#incarnation;
    let answered = false;
    const attempt = (): void => {
      if (answered || incarnation !== this.#incarnation) return;
      if (this.#up) {
        this.#world.send(() =>
          this.#world.ask(
            (token) => ({ kind: "report", token, report: { fence, event } }),
            () =>
              this.#world.send(() => {
                if (answered) return;
                answered = true;
                done();
              }),
          ),
        );
      }
      this.#world.later(1_000, attempt);
    };
    attempt();
  }

  #beat(): void {
    if (this.#world.nowMs < this.#nextBeatMs) return;
    this.#nextBeatMs = this.#world.nowMs + 1_000;
    const residents = [...this.#residents.values()].map(({ fence }) => ({
      tenant: fence.tenant,
      job: fence.job,
      attempt: fence.attempt,
    }));
    const facts = {
      group: this.name,
      incarnation: this.#incarnationName,
      residentsMax: WorldGroup.residentsMax,
      numericsClass: "c",
      modelDigest: "d",
      simulated: false,
      protocolVersionMin: 1,
      protocolVersionMax: 1,
      leaderEpoch: this.#leaderEpoch,
      draining: false,
      ready: true,
      residents,
    };
    this.#world.send(() => this.#world.step({ kind: "heartbeat", facts }));
  }
}
