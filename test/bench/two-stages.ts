/**
 * What a pipeline loses: pictures per second of `fluxline up --stages 2` on two cores, over two
 * independent bare onnxruntime loops on the same two cores, taking turns. The loops hold the whole
 * model each and never wait for anybody, so 1 would be a pipeline without a bubble and serving for
 * nothing. Measured with as many steps in flight as there are stages, and with one more.
 */
import { BareLoop, type DrawingShape } from "./bare-process.ts";
import { type Measurement, median, rangeText } from "./measurement.ts";
import { ServedStack } from "./served-stack.ts";

const SHAPE: DrawingShape = { side: 256, steps: 10, textLength: 128 };
const STAGES = 2;
const ROUNDS = 4;
const IMAGES_PER_TURN = 8;
/** Enough requests that a stage never waits for one. */
const AT_A_TIME = 6;
/** Of `--max-steps-in-flight`; the first is what is promised. */
const IN_FLIGHT = [STAGES, STAGES + 1];

export async function twoStages(model: string): Promise<Measurement[]> {
  const bare = await Promise.all(
    Array.from({ length: STAGES }, () => BareLoop.start(model, SHAPE, 1)),
  );
  const stacks: ServedStack[] = [];
  const ratios = IN_FLIGHT.map((): number[] => []);
  try {
    for (const inFlight of IN_FLIGHT) {
      const options = ["--stages", String(STAGES), "--threads", "1", "--max-batch", "1"];
      options.push("--max-steps-in-flight", String(inFlight));
      stacks.push(await ServedStack.start(model, options));
    }
    for (let round = 0; round <= ROUNDS; round++) {
      const bareSeconds = await bareTurn(bare);
      for (const [index, stack] of stacks.entries()) {
        const ratio = bareSeconds / (await servedTurn(stack));
        if (round > 0) ratios[index]!.push(ratio); // the first warms all up
      }
    }
  } finally {
    for (const loop of bare) loop.stop();
    for (const stack of stacks) await stack.stop();
  }
  const { side, steps } = SHAPE;
  const note = `dim 768, ${side}x${side}, ${steps} steps, ${STAGES} cores; ${ROUNDS} turns of ${IMAGES_PER_TURN}`;
  return IN_FLIGHT.map((inFlight, index) => ({
    name: `images per second of ${STAGES} stages over ${STAGES} bare loops, ${inFlight} steps in flight`,
    value: median(ratios[index]!),
    unit: "ratio",
    ...(index === 0 ? { aim: { atLeast: 0.9 } } : {}),
    note: `${note}: ${rangeText(ratios[index]!)}`,
  }));
}

/** Seconds in which the loops together draw a turn's pictures. */
async function bareTurn(loops: readonly BareLoop[]): Promise<number> {
  const begun = performance.now();
  await Promise.all(
    loops.map(async (loop) => {
      for (let image = 0; image < IMAGES_PER_TURN / loops.length; image++) await loop.draw();
    }),
  );
  return (performance.now() - begun) / 1000;
}

async function servedTurn(stack: ServedStack): Promise<number> {
  const begun = performance.now();
  await stack.draw(SHAPE, IMAGES_PER_TURN, AT_A_TIME);
  return (performance.now() - begun) / 1000;
}
