/**
 * What checkpoints cost: CPU-seconds of a stack that saves running images, over one that does not,
 * taking turns; and the bytes that saving moves. Once with a real model, whose small images make
 * saving look cheap, and once with latents of 1024x1024 on a simulated device, where all CPU time
 * is that of serving.
 *
 * The difference of two totals is lost in the noise of the model's own computing, so what is
 * compared is the time of all processes but the runners, which saving never touches.
 */
import { connectBus } from "@fluxline/platform/bus/connection.ts";
import { checkpointsStore } from "@fluxline/platform/bus/topology.ts";
import type { DrawingShape } from "./bare-process.ts";
import { type Measurement, median, rangeText } from "./measurement.ts";
import { type TreeCost, TreeMeter } from "./process-tree.ts";
import { ServedStack } from "./served-stack.ts";

const MIB = 1024 * 1024;
/** The aim of docs/benchmarks.md: a hundredth of what a picture costs. */
const SHARE_MAX = 0.01;

interface Arrangement {
  readonly name: string;
  readonly shape: DrawingShape;
  readonly options: readonly string[];
  readonly rounds: number;
  readonly imagesPerTurn: number;
}

const REAL: Arrangement = {
  name: "dim 768, 256x256",
  shape: { side: 256, steps: 10, textLength: 128 },
  options: ["--threads", "1", "--max-batch", "4", "--batching", "full"],
  rounds: 3,
  imagesPerTurn: 4,
};

const SIMULATED: Arrangement = {
  name: "latents of 1024x1024, simulated steps of 0.5 s",
  shape: { side: 1024, steps: 12, textLength: 128 },
  options: ["--provider", "simulated", "--simulated-step-seconds", "0.5", "--batching", "full"],
  rounds: 4,
  imagesPerTurn: 8,
};

interface Turn {
  readonly seconds: number;
  readonly whole: number;
  /** All processes but the runners. */
  readonly serving: number;
}

interface Traffic {
  readonly messages: number;
  readonly bytes: number;
}

export async function checkpointCost(model: string): Promise<Measurement[]> {
  return [...(await compare(model, REAL)), ...(await compare(model, SIMULATED))];
}

async function compare(model: string, arrangement: Arrangement): Promise<Measurement[]> {
  const { name, options, rounds, imagesPerTurn, shape } = arrangement;
  const saving = await ServedStack.start(model, options);
  const plain = await ServedStack.start(model, [...options, "--checkpoint-every-ms", "0"]);
  const pairs: { saving: Turn; plain: Turn }[] = [];
  let traffic: Traffic = { messages: 0, bytes: 0 };
  try {
    // The first turns warm both up, and count what is saved: listening costs CPU time, too.
    traffic = await checkpointTraffic(saving, () => takeTurn(saving, arrangement));
    await takeTurn(plain, arrangement);
    for (let round = 0; round < rounds; round++) {
      const savingTurn = await takeTurn(saving, arrangement);
      pairs.push({ saving: savingTurn, plain: await takeTurn(plain, arrangement) });
    }
  } finally {
    await saving.stop();
    await plain.stop();
  }
  const extra = pairs.map((pair) => pair.saving.serving - pair.plain.serving);
  const shares = pairs.map((pair, round) => extra[round]! / pair.plain.whole);
  const note = `${name}; ${rounds} turns of ${imagesPerTurn} images`;
  const seconds = median(pairs.map((pair) => pair.saving.seconds));
  // Float32 latents: 64 channels for each 16x16 pixels.
  const saved = traffic.bytes / shape.side ** 2;
  // On a simulated device the total is that of serving alone: a share of it would say nothing.
  const share: Measurement = {
    name: `checkpoints: CPU time over the total, ${name}`,
    value: median(shares),
    unit: "share",
    aim: { atMost: SHARE_MAX },
    note: `${note}: ${rangeText(shares)}`,
  };
  return [
    ...(arrangement === REAL ? [share] : []),
    {
      name: `checkpoints: CPU time of each, ${name}`,
      value: (1000 * median(extra)) / saved,
      unit: "ms",
      note: `${note}, ${saved.toFixed(0)} checkpoints: every 2 s of work, as by default`,
    },
    {
      name: `checkpoints: bytes, ${name}`,
      value: traffic.bytes / MIB / seconds,
      unit: "MiB/s",
      aim: { atMost: 32 },
      note: `${(traffic.bytes / MIB / imagesPerTurn).toFixed(2)} MiB an image, in ${traffic.messages} messages; the cap is the default one`,
    },
  ];
}

async function takeTurn(stack: ServedStack, arrangement: Arrangement): Promise<Turn> {
  const { shape, imagesPerTurn } = arrangement;
  const meter = new TreeMeter(stack.pid);
  const begun = performance.now();
  await stack.draw(shape, imagesPerTurn, imagesPerTurn);
  const seconds = (performance.now() - begun) / 1000;
  const cost = meter.read();
  return { seconds, whole: cost.cpuSeconds, serving: cost.cpuSeconds - runnerSeconds(cost) };
}

function runnerSeconds({ byName }: TreeCost): number {
  const runners = [...byName].filter(([name]) => name.startsWith("fluxline gpu-node runner"));
  return runners.reduce((sum, [, own]) => sum + own, 0);
}

/** What goes into the store of checkpoints while `work` is done. */
async function checkpointTraffic(
  stack: ServedStack,
  work: () => Promise<unknown>,
): Promise<Traffic> {
  const bus = await connectBus({ url: stack.natsUrl, name: "benchmark" });
  let [messages, bytes] = [0, 0];
  bus.connection.subscribe(`$O.${checkpointsStore.name}.C.>`, {
    callback: (_, message) => {
      messages += 1;
      bytes += message.data.length;
    },
  });
  await bus.connection.flush();
  await work();
  await bus.drain();
  return { messages, bytes };
}
