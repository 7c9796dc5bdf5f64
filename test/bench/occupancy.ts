/**
 * How busy the stages of a pipeline are while requests wait: four stages of 50 ms, simulated, each
 * a process behind its link as in a real group; requests of mixed lengths and arrival. A stage's
 * occupancy is what its device computed over the time that passed, both from its own reports.
 */
import { Random } from "@fluxline/kernel/random.ts";
import { connectBus } from "@fluxline/platform/bus/connection.ts";
import { groupSubject } from "@fluxline/platform/bus/topology.ts";
import { Heartbeat } from "@fluxline/proto/fluxline/internal/v1/bus.ts";
import type { DrawingShape } from "./bare-process.ts";
import type { Measurement } from "./measurement.ts";
import { ServedStack } from "./served-stack.ts";

const STAGES = 4;
const STAGE_SECONDS = 0.05;
const STEPS = { min: 4, max: 40 };
const SEED = 20_261_123;
/** Enough for full batches in every stage, and some that wait. */
const AT_A_TIME_PER_ROW = 8;
const SETTLE_MS = 5_000;
const WINDOW_MS = 30_000;
const MAX_BATCHES = [1, 4];
const IN_FLIGHT = [STAGES, STAGES + 1];

interface StageReport {
  readonly busySeconds: number;
  readonly upSeconds: number;
}

export async function stageOccupancy(model: string): Promise<Measurement[]> {
  const measurements: Measurement[] = [];
  for (const maxBatch of MAX_BATCHES) {
    for (const inFlight of IN_FLIGHT) {
      const occupancies = await occupancyOf(model, maxBatch, inFlight);
      const least = Math.min(...occupancies);
      const byRank = occupancies.map((value) => value.toFixed(3)).join(", ");
      measurements.push({
        name: `least busy of ${STAGES} stages, batch up to ${maxBatch}, ${inFlight} steps in flight`,
        value: least,
        unit: "of time",
        aim: { atLeast: 0.97 },
        note: `simulated, ${STAGE_SECONDS * 1000} ms a stage, ${STEPS.min}-${STEPS.max} steps; by rank ${byRank}`,
      });
    }
  }
  return measurements;
}

/** By rank, over a window in which requests always wait. */
async function occupancyOf(model: string, maxBatch: number, inFlight: number): Promise<number[]> {
  const atATime = AT_A_TIME_PER_ROW * maxBatch;
  const options = ["--provider", "simulated", "--stages", String(STAGES)];
  options.push("--simulated-step-seconds", String(STAGES * STAGE_SECONDS));
  // Off the pipeline: what is measured is the denoiser's stages.
  options.push("--place", "clip=cpu,t5=cpu,vae=cpu");
  options.push("--max-batch", String(maxBatch), "--max-residents", String(atATime));
  options.push("--max-steps-in-flight", String(inFlight));
  const stack = await ServedStack.start(model, options);
  const reports = await StageReports.follow(stack.natsUrl);
  const random = new Random(SEED);
  const next = (): DrawingShape => {
    const steps = STEPS.min + Math.floor(random.float() * (STEPS.max - STEPS.min + 1));
    return { side: 64, steps, textLength: 64 };
  };
  try {
    // More than are resident, so that a place that becomes free is taken at once.
    const load = stack.load(next, atATime + STAGES);
    await pause(SETTLE_MS);
    const before = await reports.next();
    await pause(WINDOW_MS);
    const after = await reports.next();
    await load.stop();
    return after.map(({ busySeconds, upSeconds }, rank) => {
      const begun = before[rank]!;
      return (busySeconds - begun.busySeconds) / (upSeconds - begun.upSeconds);
    });
  } finally {
    await reports.close();
    await stack.stop();
  }
}

/** Heartbeats of group g0, as the scheduler hears them. */
class StageReports {
  readonly #close: () => Promise<void>;
  #waiters: ((reports: StageReport[]) => void)[] = [];

  private constructor(close: () => Promise<void>) {
    this.#close = close;
  }

  static async follow(url: string): Promise<StageReports> {
    const bus = await connectBus({ url, name: "benchmark" });
    const reports = new StageReports(() => bus.drain());
    bus.connection.subscribe(groupSubject("default", "g0", "heartbeat"), {
      callback: (_, message) => reports.#heard(Heartbeat.decode(message.data)),
    });
    return reports;
  }

  /** The reports of the stages in the next heartbeat, by rank. */
  next(): Promise<StageReport[]> {
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  close(): Promise<void> {
    return this.#close();
  }

  #heard({ stages }: Heartbeat): void {
    const byRank = stages.slice(0, STAGES);
    for (const tell of this.#waiters.splice(0)) tell(byRank);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
