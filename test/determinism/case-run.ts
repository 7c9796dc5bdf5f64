/**
 * Serves one case of the matrix, leg by leg, and compares what comes out with the reference: the
 * latents of everybody in the batches at every boundary, every finished picture, and whatever is
 * handed on when the subject moves.
 */
import { Engine, type EngineUnit } from "@fluxline/gpu-node/adapters/engine.ts";
import type { ChainCall } from "@fluxline/gpu-node/adapters/group-devices.ts";
import type { ImageModel, Pixels } from "@fluxline/gpu-node/core/image-model.ts";
import { assert } from "@fluxline/kernel/assert.ts";
import type { ImageRequest } from "@fluxline/kernel/image-request.ts";
import { realClock } from "@fluxline/platform/real-clock.ts";
import { Evidence, type Place } from "./evidence.ts";
import type { GroupPool, MatrixGroup } from "./group-pool.ts";
import type { Kill, Leg, MatrixCase } from "./matrix-case.ts";
import type { Reference } from "./reference.ts";

const LEG_MS_MAX = 120_000;
const RESIDENTS_MAX = 64;
const TERMS = { tenant: "default", share: 1, priorityClass: "standard" } as const;

/** A mistake made on purpose, to see the comparison catch it. */
export interface Plant {
  /** Changes what the engine computes; `subject` is the case's own request. */
  readonly model?: (model: ImageModel, subject: ImageRequest) => ImageModel;
  /** Changes what a move carries. */
  readonly carry?: (units: readonly Required<EngineUnit>[]) => Required<EngineUnit>[];
}

export interface CaseParts {
  readonly reference: Reference;
  readonly folder: string;
  readonly groups: Pick<GroupPool, "group">;
  readonly plant?: Plant;
}

export async function runCase(one: MatrixCase, parts: CaseParts): Promise<Evidence> {
  const { reference, folder, groups, plant } = parts;
  await reference.compute([one.subject, ...one.legs.flatMap(({ strangers }) => strangers)]);
  const evidence = new Evidence(reference);
  const images = reference.request(one.subject).imageCount;
  let left: readonly EngineUnit[] = Array.from({ length: images }, (_, index) => {
    return { index, step: 0 };
  });
  for (const [number, leg] of one.legs.entries()) {
    const group = await groups.group(folder, leg.group);
    const where = `leg ${number + 1} of ${one.legs.length}`;
    const run = new LegRun(one.subject, leg, group, reference, evidence, where, plant);
    left = await run.serve(left);
    if (left.length === 0) break;
  }
  if (left.length > 0) evidence.fault(`${left.length} of ${images} images were never finished`);
  checkAxes(one, evidence);
  return evidence;
}

/** A case that did not do what it says shows nothing. */
function checkAxes({ legs, rowsToSee }: MatrixCase, evidence: Evidence): void {
  const moves = legs.length - 1;
  const kills = legs.flatMap((leg) => leg.kills).length;
  if (evidence.moves !== moves) evidence.fault(`moved ${evidence.moves} times, not ${moves}`);
  if (evidence.kills !== kills) evidence.fault(`killed ${evidence.kills} times, not ${kills}`);
  if (evidence.restarts < kills) evidence.fault(`only ${evidence.restarts} runners began again`);
  if (rowsToSee !== undefined && !evidence.batches.has(rowsToSee)) {
    const seen = [...evidence.batches.keys()].join(", ");
    evidence.fault(`the subject was in batches of ${seen} rows, never of ${rowsToSee}`);
  }
}

type LegEnd = { readonly units: readonly EngineUnit[] } | { readonly failed: string };

interface Resident {
  readonly number: number;
  readonly ended: PromiseWithResolvers<LegEnd>;
}

class LegRun {
  readonly #subject: number;
  readonly #leg: Leg;
  readonly #group: MatrixGroup;
  readonly #reference: Reference;
  readonly #evidence: Evidence;
  readonly #where: string;
  readonly #plant: Plant | undefined;
  readonly #engine: Engine;
  readonly #residents = new Map<string, Resident>();
  readonly #decoded = new WeakMap<Pixels, Float32Array>();
  /** Latents of the subject, by which its rows are known in a batch. */
  readonly #ownLatents = new WeakSet<object>();
  readonly #stored = new Set<number>();
  readonly #killsLeft: Set<Kill>;
  #nextStranger = 0;
  #nextId = 0;
  #subjectId = "";
  #subjectLeaves = false;

  constructor(
    subject: number,
    leg: Leg,
    group: MatrixGroup,
    reference: Reference,
    evidence: Evidence,
    where: string,
    plant: Plant | undefined,
  ) {
    this.#subject = subject;
    this.#leg = leg;
    this.#group = group;
    this.#reference = reference;
    this.#evidence = evidence;
    this.#where = where;
    this.#plant = plant;
    this.#killsLeft = new Set(leg.kills);
    this.#engine = this.#makeEngine();
  }

  /** The images of the subject that are still to be finished, with their latents. */
  async serve(units: readonly EngineUnit[]): Promise<readonly EngineUnit[]> {
    const restartsBefore = this.#group.restarts();
    this.#group.onStep = (call) => this.#watchBatch(call);
    const { before, strangers } = this.#leg;
    for (let i = 0; i < before; i++) this.#beginStranger();
    this.#begin(this.#subject, units, true);
    for (let i = before; i < strangers.length; i++) this.#beginStranger();
    const end = await bounded(this.#resident(this.#subjectId).ended.promise, this.#where);
    this.#subjectLeaves = true;
    for (const id of this.#residents.keys()) this.#engine.revoke(id, "cancelled");
    const others = [...this.#residents.values()].map(({ ended }) => ended.promise);
    await bounded(Promise.all(others), `${this.#where}: the strangers`);
    this.#evidence.restarts += this.#group.restarts() - restartsBefore;
    this.#group.onStep = () => undefined;
    if ("failed" in end) {
      this.#evidence.fault(`${this.#where}: the subject failed: ${end.failed}`);
      return [];
    }
    return this.#unfinished(units, end.units);
  }

  #unfinished(before: readonly EngineUnit[], handed: readonly EngineUnit[]): EngineUnit[] {
    const left = before.filter(({ index }) => !this.#stored.has(index));
    if (left.length > 0) this.#evidence.moves += 1;
    const begun = handed as readonly Required<EngineUnit>[];
    const carried = this.#plant?.carry?.(begun) ?? begun;
    const place = { request: this.#subject, where: `${this.#where}, carried on` };
    for (const { index, step, latents } of carried) {
      this.#evidence.latents({ ...place, image: index }, step, latents);
    }
    return left.map(({ index }) => {
      const unit = carried.find((candidate) => candidate.index === index);
      return unit === undefined ? { index, step: 0 } : structuredClone(unit);
    });
  }

  #beginStranger(): void {
    const { strangers } = this.#leg;
    const number = strangers[this.#nextStranger++ % strangers.length];
    if (number === undefined) return;
    const { imageCount } = this.#reference.request(number);
    this.#begin(
      number,
      Array.from({ length: imageCount }, (_, index) => ({ index, step: 0 })),
    );
  }

  #begin(number: number, units: readonly EngineUnit[], isSubject = false): void {
    const id = `job-${this.#nextId++}`;
    if (isSubject) this.#subjectId = id;
    this.#residents.set(id, { number, ended: Promise.withResolvers() });
    const request = this.#reference.request(number);
    this.#engine.assign({ id, request, units, alone: false, ...TERMS });
  }

  #end(id: string, end: LegEnd): void {
    const { ended, number } = this.#resident(id);
    this.#residents.delete(id);
    ended.resolve(end);
    if (id === this.#subjectId) return;
    if ("failed" in end) this.#evidence.fault(`request ${number} failed: ${end.failed}`);
    if (!this.#subjectLeaves) queueMicrotask(() => this.#refill());
  }

  #refill(): void {
    if (!this.#subjectLeaves) this.#beginStranger();
  }

  #makeEngine(): Engine {
    const { devices, plan, stages } = this.#group;
    const limits = {
      rowsMax: this.#leg.rows,
      residentsMax: RESIDENTS_MAX,
      batching: "full",
      stepsInFlightMax: stages,
      devices: plan,
    } as const;
    const store = {
      store: (id: string, unit: number, pixels: Pixels) => {
        this.#compareStored(id, unit, pixels);
        return Promise.resolve();
      },
    };
    const listener = {
      started: () => undefined,
      preview: () => undefined,
      drained: () => undefined,
      progress: (id: string, phase: string) => {
        if (id === this.#subjectId) this.#killAt(({ at }) => at === phase);
      },
      boundary: (id: string, unit: Required<EngineUnit>) => this.#boundary(id, unit),
      batchFailed: () => undefined,
      finished: (id: string) => this.#end(id, { units: [] }),
      failed: (id: string, error: { message: string }) => this.#end(id, { failed: error.message }),
      released: (id: string, _: unknown, units: readonly Required<EngineUnit>[]) => {
        for (const { index, step, latents } of units) {
          this.#evidence.latents(this.#place(id, index, "handed back"), step, latents);
        }
        this.#end(id, { units });
      },
      dropped: (id: string) => this.#end(id, { failed: "it was dropped" }),
    };
    return new Engine(this.#watchedModel(), devices, limits, store, listener, realClock);
  }

  /** The model with the plant, and with an eye on what the decoder gives. */
  #watchedModel(): ImageModel {
    const { model } = this.#group;
    const subject = this.#reference.request(this.#subject);
    const planted = this.#plant?.model?.(model, subject) ?? model;
    return {
      ...planted,
      plan: (request) => {
        const plan = planted.plan(request);
        return {
          ...plan,
          pixels: (decoded) => {
            const pixels = plan.pixels(decoded);
            this.#decoded.set(pixels, decoded.data as Float32Array);
            return pixels;
          },
        };
      },
    };
  }

  #boundary(id: string, { index, step, latents }: Required<EngineUnit>): void {
    this.#evidence.latents(this.#place(id, index, "in a batch"), step, latents);
    if (id !== this.#subjectId) return;
    this.#ownLatents.add(latents);
    this.#killAt(({ at }) => typeof at === "number" && step >= at);
    const { until } = this.#leg;
    if (until !== undefined && step >= until) this.#engine.revoke(id, "preempted");
  }

  #killAt(due: (kill: Kill) => boolean): void {
    for (const kill of this.#killsLeft) {
      if (!due(kill)) continue;
      this.#killsLeft.delete(kill);
      this.#evidence.kills += 1;
      this.#group.kill(kill.rank);
    }
  }

  #compareStored(id: string, unit: number, pixels: Pixels): void {
    if (id === this.#subjectId) this.#stored.add(unit);
    const decoded = this.#decoded.get(pixels);
    assert(decoded !== undefined, "every picture was decoded");
    this.#evidence.picture(this.#place(id, unit, "finished"), pixels.rgb, decoded);
  }

  #watchBatch({ inputs }: ChainCall): void {
    const rows = inputs["hidden_states"] ?? [];
    const own = rows.some((row) => "tensor" in row && this.#ownLatents.has(row.tensor.data));
    if (own) this.#evidence.countBatch(rows.length);
  }

  #place(id: string, image: number, what: string): Place {
    const { number } = this.#resident(id);
    const who = id === this.#subjectId ? "the subject" : "a stranger";
    return { request: number, image, where: `${this.#where}, ${who}, ${what}` };
  }

  #resident(id: string): Resident {
    const resident = this.#residents.get(id);
    assert(resident !== undefined, `${id} is not here`);
    return resident;
  }
}

async function bounded<T>(promise: Promise<T>, what: string): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`${what}: no end`)), LEG_MS_MAX);
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
