/**
 * What serving costs over the least that must be done: CPU-seconds and pictures per second of the
 * whole process tree of `fluxline up`, over a bare onnxruntime loop with the same batch, taking
 * turns. The stack is saturated: a request waits for every place that becomes free.
 */
import { BareLoop, type DrawingShape, type Turn } from "./bare-process.ts";
import { type Measurement, median, rangeText } from "./measurement.ts";
import { TreeMeter } from "./process-tree.ts";
import { ServedStack } from "./served-stack.ts";

const SHAPE: DrawingShape = { side: 256, steps: 10, textLength: 128 };

interface Arrangement {
  readonly batch: number;
  readonly rounds: number;
  /** Pictures of one side before the other has its turn. */
  readonly imagesPerTurn: number;
  /** Requests under way at a time. */
  readonly atATime: number;
}

const ARRANGEMENTS: readonly Arrangement[] = [
  { batch: 1, rounds: 6, imagesPerTurn: 2, atATime: 2 },
  { batch: 4, rounds: 4, imagesPerTurn: 4, atATime: 4 },
];

export async function servingOverhead(model: string): Promise<Measurement[]> {
  const measurements: Measurement[] = [];
  for (const arrangement of ARRANGEMENTS) measurements.push(...(await compare(model, arrangement)));
  return measurements;
}

async function compare(model: string, arrangement: Arrangement): Promise<Measurement[]> {
  const { batch, rounds, imagesPerTurn } = arrangement;
  const options = ["--threads", "1", "--max-batch", String(batch), "--batching", "full"];
  const stack = await ServedStack.start(model, options);
  const bare = await BareLoop.start(model, SHAPE, batch);
  const spent = new Map<string, number>();
  const pairs: { served: Turn; bare: Turn }[] = [];
  try {
    for (let round = 0; round <= rounds; round++) {
      const counted = round > 0; // the first warms both up
      const served = await servedTurn(stack, arrangement, counted ? spent : new Map());
      const pair = { served, bare: await bareTurn(bare, imagesPerTurn / batch) };
      if (counted) pairs.push(pair);
    }
  } finally {
    bare.stop();
    await stack.stop();
  }
  const all = [...spent.values()].reduce((sum, own) => sum + own, 0);
  console.error(`  CPU time of the stack, batch ${batch}:`);
  for (const [name, own] of [...spent].toSorted(([, a], [, b]) => b - a)) {
    console.error(`    ${((100 * own) / all).toFixed(2).padStart(6)}%  ${name}`);
  }
  const { side, steps } = SHAPE;
  const note = `dim 768, ${side}x${side}, ${steps} steps, one thread; ${rounds} turns of ${imagesPerTurn}`;
  const cpu = pairs.map((pair) => pair.served.cpuSeconds / pair.bare.cpuSeconds);
  const rate = pairs.map((pair) => pair.bare.seconds / pair.served.seconds);
  return [
    {
      name: `CPU-seconds per image over the bare loop, batch ${batch}`,
      value: median(cpu),
      unit: "ratio",
      aim: { atMost: 1.03 },
      note: `whole process tree; ${note}: ${rangeText(cpu)}`,
    },
    {
      name: `images per second over the bare loop, batch ${batch}`,
      value: median(rate),
      unit: "ratio",
      aim: { atLeast: 0.95 },
      note: `${note}: ${rangeText(rate)}`,
    },
  ];
}

/** `spent`: CPU-seconds by process name, added up. */
async function servedTurn(
  stack: ServedStack,
  { imagesPerTurn, atATime }: Arrangement,
  spent: Map<string, number>,
): Promise<Turn> {
  const meter = new TreeMeter(stack.pid);
  const begun = performance.now();
  await stack.draw(SHAPE, imagesPerTurn, atATime);
  const seconds = (performance.now() - begun) / 1000;
  const { cpuSeconds, byName } = meter.read();
  for (const [name, own] of byName) spent.set(name, (spent.get(name) ?? 0) + own);
  return { seconds, cpuSeconds };
}

async function bareTurn(bare: BareLoop, batches: number): Promise<Turn> {
  let [seconds, cpuSeconds] = [0, 0];
  for (let batch = 0; batch < batches; batch++) {
    const turn = await bare.draw();
    seconds += turn.seconds;
    cpuSeconds += turn.cpuSeconds;
  }
  return { seconds, cpuSeconds };
}
