/**
 * What one decision of the batcher costs while so many requests are resident: a step comes back,
 * the driver takes it in and forms the next batch. It is paid between any two steps, so it must not
 * grow with the residents. Most of it goes with the rows that came back and the rows that go, so all
 * residents have one shape, and batches are of the same size throughout.
 */
import { Random } from "@fluxline/kernel/random.ts";
import { priorityClasses } from "@fluxline/kernel/priority-class.ts";
import { Driver, type DriverInput, type JobFacts } from "@fluxline/gpu-node/core/driver.ts";
import { ONE_DEVICE, type Task } from "@fluxline/gpu-node/core/step-batcher.ts";
import { type Measurement, median } from "./measurement.ts";

const RESIDENTS = [10, 100, 1_000];
const ROWS = 8;
/** Enough that nothing ends while it is measured. */
const STEPS = 1_000_000;
const WARM_UP_DECISIONS = 20_000;
const DECISIONS = 50_000;
const GROWTH_MAX = 2;

export function batcherDecision(): Measurement[] {
  return [...figures("16 tenants", 16), ...figures("a tenant each", Infinity)];
}

function figures(name: string, tenants: number): Measurement[] {
  const measured = RESIDENTS.map((residents) => {
    return { residents, micros: decisions(residents, Math.min(residents, tenants)) };
  });
  const note = `${DECISIONS} decisions, ${name}, batches of ${ROWS}`;
  const each = measured.flatMap(({ residents, micros }): Measurement[] => {
    const p99 = micros.toSorted((a, b) => a - b)[Math.floor(micros.length * 0.99)]!;
    const what = `decision, ${residents} residents, ${name}`;
    return [
      { name: `${what}: median`, value: median(micros), unit: "us", note },
      { name: `${what}: p99`, value: p99, unit: "us", note },
    ];
  });
  const [fewest, most] = [measured[0]!, measured.at(-1)!];
  const growth: Measurement = {
    name: `decision, growth, ${name}`,
    value: median(most.micros) / median(fewest.micros),
    unit: "x",
    aim: { atMost: GROWTH_MAX },
    note: `median with ${most.residents} residents over median with ${fewest.residents}`,
  };
  return [...each, growth];
}

/** Microseconds of each decision. */
function decisions(residents: number, tenants: number): number[] {
  const driver = new Driver({
    rowsMax: ROWS,
    residentsMax: residents,
    batching: "measured",
    stepsInFlightMax: 1,
    devices: ONE_DEVICE,
  });
  const random = new Random(1);
  const flying: Task[] = [];
  let nowMs = 0;
  const send = (input: DriverInput): void => {
    for (const effect of driver.step(input, nowMs)) {
      if (effect.kind === "run") flying.push(effect.task);
    }
  };
  for (let i = 0; i < residents; i++) send({ kind: "assigned", job: facts(i, tenants, random) });
  const micros: number[] = [];
  while (micros.length < WARM_UP_DECISIONS + DECISIONS) {
    const task = flying.shift()!;
    nowMs += 10;
    // Larger batches pay on this device, so all are full.
    const seconds = task.kind === "step" ? 0.01 * task.rows.length ** 0.5 : undefined;
    const begun = performance.now();
    send({ kind: "task-done", task, seconds });
    const taken = (performance.now() - begun) * 1_000;
    if (task.kind === "step") micros.push(taken);
  }
  return micros.slice(WARM_UP_DECISIONS);
}

function facts(index: number, tenants: number, random: Random): JobFacts {
  return {
    id: `job-${index}`,
    shapeKey: "shape",
    steps: STEPS,
    passes: 1,
    units: [{ index: 0, step: 0 }],
    alone: false,
    tenant: `tenant-${index % tenants}`,
    share: 1 + random.below(4),
    priorityClass: priorityClasses[random.below(priorityClasses.length)]!,
    deadlineMs: random.below(2) === 0 ? undefined : 1e12,
  };
}
