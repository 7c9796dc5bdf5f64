/** How long the driver's event loop is held up while its runner computes steps. */
import { monitorEventLoopDelay } from "node:perf_hooks";
import { ImageBench } from "../support/image-bench.ts";
import type { Measurement } from "./measurement.ts";

const RESOLUTION_MS = 1;
const STEPS = 12;

export async function eventLoopDelay(model: string): Promise<Measurement[]> {
  const bench = await ImageBench.open(model);
  const ask = { prompt: "a photo of a red cat", width: 256, height: 256, maxSequenceLength: 128 };
  await bench.images({ ...ask, steps: 2 });
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  await bench.images({ ...ask, steps: STEPS, seed: 2n });
  histogram.disable();
  await bench.close();
  const milliseconds = (nanoseconds: number): number => nanoseconds / 1e6 - RESOLUTION_MS;
  const note = `driver process, ${STEPS} steps of the dim-768 model at 256x256`;
  return [
    {
      name: "event loop delay while steps run, p99",
      value: milliseconds(histogram.percentile(99)),
      unit: "ms",
      note,
    },
    {
      name: "event loop delay while steps run, longest",
      value: milliseconds(histogram.max),
      unit: "ms",
      note: `${note}; includes noise, Euler steps and pixels`,
    },
  ];
}
