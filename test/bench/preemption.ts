/**
 * How long a preemptor waits once it is decided: steps that begin between the decision and its own
 * first step, on a real engine whose every place is taken. At a random moment a random resident is
 * told to make way; as soon as it has, with its latents, the preemptor takes its place. Its text is
 * encoded then too. Everything random follows from the seed that is printed.
 */
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { Random } from "@fluxline/kernel/random.ts";
import type { ChainCall } from "@fluxline/gpu-node/adapters/group-devices.ts";
import type { RequestedImage } from "@fluxline/kernel/image-request.ts";
import { type BenchJob, ImageBench } from "../support/image-bench.ts";
import type { Measurement } from "./measurement.ts";

const MODEL = fileURLToPath(new URL("../golden/data/checkpoints/dev-like", import.meta.url));
const SEED = 20_261_123;
const TRIALS = 200;
const RESIDENTS = 6;
const SHAPE = { width: 64, height: 64, maxSequenceLength: 64 } as const;
/** More than a resident gets through. */
const LONG_STEPS = 999;
const STEPS_BETWEEN_MAX = 12;
const PAUSE_MS_MAX = 8;
const STEP_MS_MAX = 10_000;

interface Arrangement {
  readonly stages: number;
  readonly rowsMax: number;
}

const ARRANGEMENTS: readonly Arrangement[] = [
  { stages: 1, rowsMax: 1 },
  { stages: 1, rowsMax: 4 },
  { stages: 2, rowsMax: 1 },
  { stages: 2, rowsMax: 3 },
];

export async function preemption(): Promise<Measurement[]> {
  console.error(`  seed ${SEED}`);
  const measurements: Measurement[] = [];
  for (const arrangement of ARRANGEMENTS) measurements.push(...(await longest(arrangement)));
  return measurements;
}

interface Trial {
  /** Steps of any resident that began between the decision and the preemptor's first. */
  readonly begun: number;
  /** Steps that the one that makes way still finished. */
  readonly ownSteps: number;
}

async function longest({ stages, rowsMax }: Arrangement): Promise<Measurement[]> {
  // As a group has it: replica-group.ts.
  const stepsInFlightMax = stages === 1 ? 1 : stages + 1;
  const limits = { rowsMax, residentsMax: RESIDENTS, stepsInFlightMax };
  const bench = await ImageBench.open(MODEL, { stages, limits });
  const crowd = new Crowd(bench, new Random(SEED));
  const trials: Trial[] = [];
  try {
    while (trials.length < TRIALS) trials.push(await crowd.preemptOne());
  } finally {
    await bench.close();
  }
  const where = `stages ${stages}, batch up to ${rowsMax}`;
  const most = (name: string, counts: readonly number[]): Measurement => ({
    name: `${name}, ${where}: most`,
    value: Math.max(...counts),
    unit: "steps",
    aim: { atMost: 1 },
    note: `${TRIALS} trials, ${RESIDENTS} residents; trials by steps ${spreadText(counts)}`,
  });
  return [
    most(
      "own steps of who makes way",
      trials.map(({ ownSteps }) => ownSteps),
    ),
    most(
      "steps begun before the preemptor's",
      trials.map(({ begun }) => begun),
    ),
  ];
}

function spreadText(counts: readonly number[]): string {
  const values = [...new Set(counts)].toSorted((a, b) => a - b);
  const trialsOf = (value: number): number => counts.filter((count) => count === value).length;
  return values.map((value) => `${value}: ${trialsOf(value)}`).join(", ");
}

/** Residents that are never finished, and a count of the steps that begin. */
class Crowd {
  readonly #bench: ImageBench;
  readonly #random: Random;
  readonly #jobs: BenchJob[] = [];
  readonly #onStep = new Set<(call: ChainCall) => void>();
  #begun = 0;
  #prompts = 0;

  constructor(bench: ImageBench, random: Random) {
    this.#bench = bench;
    this.#random = random;
    const { devices } = bench;
    const runChain = devices.runChain.bind(devices);
    devices.runChain = (call) => {
      for (const tell of this.#onStep) tell(call);
      this.#begun += 1;
      return runChain(call);
    };
    while (this.#jobs.length < RESIDENTS) this.#jobs.push(bench.begin(this.#long()));
  }

  async preemptOne(): Promise<Trial> {
    await this.#steps(1 + this.#random.below(STEPS_BETWEEN_MAX));
    await sleep(this.#random.float() * PAUSE_MS_MAX);
    const at = this.#random.below(RESIDENTS);
    const victim = this.#jobs[at]!;
    const decided = this.#begun;
    const residents = this.#bench.engine.residents();
    const stepBefore = residents.find(({ id }) => id === victim.id)!.stepsDone;
    this.#bench.engine.revoke(victim.id, "preempted");
    const end = await victim.end;
    if (end.kind !== "released") throw new Error(`the victim was ${end.kind}`);
    const requested = this.#long();
    const first = this.#firstStepOf(requested);
    const preemptor = this.#bench.begin(requested, undefined, { priorityClass: "interactive" });
    const begun = (await first) - decided;
    // It makes way in turn for one like the others, which goes on where the victim was.
    this.#bench.engine.revoke(preemptor.id, "cancelled");
    await preemptor.end;
    this.#jobs[at] = this.#bench.begin(this.#long());
    // Without a unit it had not begun at all.
    return { begun, ownSteps: (end.units[0]?.step ?? stepBefore) - stepBefore };
  }

  /** Resolves with the number of steps begun before the first one that has this request in it. */
  #firstStepOf(requested: RequestedImage): Promise<number> {
    const plan = this.#bench.model.plan(this.#bench.resolve(requested));
    const { key } = plan.encodings.positive;
    return this.#nextStep(({ inputs }) =>
      Object.values(inputs).some((parts) =>
        parts.some((part) => "key" in part && part.key === key),
      ),
    );
  }

  async #steps(count: number): Promise<void> {
    for (let step = 0; step < count; step++) await this.#nextStep(() => true);
  }

  #nextStep(isWanted: (call: ChainCall) => boolean): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const timer = setTimeout(() => reject(new Error("no step begins any more")), STEP_MS_MAX);
    const look = (call: ChainCall): void => {
      if (!isWanted(call)) return;
      this.#onStep.delete(look);
      clearTimeout(timer);
      resolve(this.#begun);
    };
    this.#onStep.add(look);
    return promise;
  }

  /** Of a prompt that nobody has asked for yet: its text has to be encoded. */
  #long(): RequestedImage {
    return { ...SHAPE, prompt: `picture ${this.#prompts++}`, steps: LONG_STEPS };
  }
}
