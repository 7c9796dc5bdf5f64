/**
 * Chooses what the device does next. Pure: residents in, one task out.
 *
 * A batch is formed anew for every step: the oldest resident that has a step to run leads, and
 * rows of the same shape key join in order of arrival until the batch is full. Steps, guidance,
 * seed and tenant differ from row to row. Text encoding and decoding take turns with steps, so
 * that a newcomer joins after one step and a finished image waits for one step at most, and
 * neither delays a running step by more than one task.
 */

export type UnitPhase = "denoising" | "decoding" | "storing" | "stored";

/** One image of a request, as the batcher sees it. */
export interface ResidentUnit {
  readonly index: number;
  step: number;
  phase: UnitPhase;
  inFlight: boolean;
}

export interface Resident {
  readonly id: string;
  readonly shapeKey: string;
  readonly steps: number;
  /** Rows that one unit takes in a batch: 2 with true classifier-free guidance. */
  readonly passes: number;
  readonly units: readonly ResidentUnit[];
  encoding: "waiting" | "running" | "done";
  /** Runs one row at a time and shares its batches with nobody, for as long as it is here. */
  alone: boolean;
  /** Was in a batch under which a runner died: alone until a step of its own has succeeded. */
  suspect: boolean;
  /** Ends at the next boundary: no further task may begin for it. */
  stopping: boolean;
}

export interface Row {
  readonly id: string;
  readonly unit: number;
}

export type Task =
  | { readonly kind: "encode"; readonly id: string }
  | { readonly kind: "step"; readonly shapeKey: string; readonly rows: readonly Row[] }
  | { readonly kind: "decode"; readonly id: string; readonly unit: number };

/** Indexes of devices: 0 .. stages - 1 are the stages, higher ones hold no part of the denoiser. */
export interface DevicePlan {
  /** Those that every step passes, in order. */
  readonly step: readonly number[];
  /** Those that a text encoding uses. */
  readonly encode: readonly number[];
  /** Those that a decode uses. */
  readonly decode: readonly number[];
}

export interface BatchLimits {
  /** Rows of one micro-batch, passes counted. */
  readonly rowsMax: number;
  /** How a batch's size is chosen: by measured cost, or as full as can be. */
  readonly batching: "measured" | "full";
  /** Step tasks in flight: about one per pipeline stage. */
  readonly stepsInFlightMax: number;
  readonly devices: DevicePlan;
}

/** One device that does everything. */
export const ONE_DEVICE: DevicePlan = { step: [0], encode: [0], decode: [0] };

/** The next task, or undefined when nothing can run. `residents` are in order of arrival. */
export function nextTask(
  residents: readonly Resident[],
  lastKind: Task["kind"] | undefined,
  limits: BatchLimits,
): Task | undefined {
  const active = residents.filter((resident) => !resident.stopping);
  const step = () => nextStep(active, limits);
  const other = () => nextEncoding(active) ?? nextDecoding(active);
  return lastKind === "step" ? (other() ?? step()) : (step() ?? other());
}

function nextEncoding(residents: readonly Resident[]): Task | undefined {
  const waiting = residents.find((resident) => resident.encoding === "waiting");
  return waiting === undefined ? undefined : { kind: "encode", id: waiting.id };
}

function nextDecoding(residents: readonly Resident[]): Task | undefined {
  for (const { id, units } of residents) {
    const unit = units.find((candidate) => candidate.phase === "decoding" && !candidate.inFlight);
    if (unit !== undefined) return { kind: "decode", id, unit: unit.index };
  }
  return undefined;
}

function nextStep(residents: readonly Resident[], limits: BatchLimits): Task | undefined {
  const ready = residents.filter((resident) => steppable(resident).length > 0);
  // Suspects first: one step clears them, and they can share batches again.
  const leader = ready.find((resident) => resident.suspect) ?? ready[0];
  if (leader === undefined) return undefined;
  const rows: Row[] = [];
  const single = runsSingly(leader);
  let places = single ? leader.passes : limits.rowsMax;
  for (const resident of single ? [leader] : ready) {
    if (resident !== leader && (runsSingly(resident) || resident.shapeKey !== leader.shapeKey)) {
      continue;
    }
    for (const unit of steppable(resident)) {
      // A unit whose passes exceed the limit still runs, alone in its batch.
      if (resident.passes > places && rows.length > 0) break;
      rows.push({ id: resident.id, unit: unit.index });
      places -= resident.passes;
    }
  }
  return { kind: "step", shapeKey: leader.shapeKey, rows };
}

function runsSingly(resident: Resident): boolean {
  return resident.alone || resident.suspect;
}

function steppable(resident: Resident): readonly ResidentUnit[] {
  if (resident.encoding !== "done") return [];
  return resident.units.filter((unit) => unit.phase === "denoising" && !unit.inFlight);
}
