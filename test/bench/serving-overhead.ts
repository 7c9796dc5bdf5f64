/**
 * What serving costs over the least that must be done: CPU-seconds and pictures per second of the
 * whole process tree of `fluxline up`, over a bare onnxruntime loop, taking turns.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Measurement, median } from "./measurement.ts";
import { cpuSecondsByProcess, processName, treeOf } from "./process-tree.ts";
import { ServedStack } from "./served-stack.ts";

const SIDE = 256;
const STEPS = 10;
const TEXT_LENGTH = 128;
const ROUNDS = 5;
/** Pictures of one side before the other has its turn. */
const IMAGES_PER_TURN = 2;
const PROMPT = "a photo of a red cat";
const PROCESS_NAME_CHARS = 70;

interface Turn {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

export async function servingOverhead(model: string): Promise<Measurement[]> {
  const stack = await ServedStack.start(model, 1);
  const spent = new Map<string, number>();
  const bare = new BareLoop(model, IMAGES_PER_TURN * (ROUNDS + 1));
  const pairs: { served: Turn; bare: Turn }[] = [];
  try {
    for (let round = 0; round <= ROUNDS; round++) {
      const pair = { served: await servedTurn(stack, spent), bare: await bare.turn() };
      if (round > 0) pairs.push(pair); // the first warms both up
    }
  } finally {
    bare.stop();
    await stack.stop();
  }
  const all = [...spent.values()].reduce((sum, own) => sum + own, 0);
  for (const [name, own] of spent) console.error(`  ${((100 * own) / all).toFixed(1)}%  ${name}`);
  const ratio = (pick: (turn: Turn) => number): number =>
    median(pairs.map((pair) => pick(pair.served) / pick(pair.bare)));
  const note =
    `dim 768, ${SIDE}x${SIDE}, ${STEPS} steps, one thread, one request at a time, ` +
    `median of ${ROUNDS} turns of ${IMAGES_PER_TURN}`;
  return [
    {
      name: "CPU-seconds per image over the bare loop",
      value: ratio(({ cpuSeconds }) => cpuSeconds),
      unit: "ratio",
      aim: { atMost: 1.05 },
      note: `whole process tree; ${note}`,
    },
    {
      name: "images per second over the bare loop",
      value: 1 / ratio(({ seconds }) => seconds),
      unit: "ratio",
      aim: { atLeast: 0.95 },
      note,
    },
  ];
}

/** `spent`: CPU-seconds by process name, added up. */
async function servedTurn(stack: ServedStack, spent: Map<string, number>): Promise<Turn> {
  const pids = treeOf(stack.pid);
  const before = cpuSecondsByProcess(pids);
  const begun = performance.now();
  for (let image = 0; image < IMAGES_PER_TURN; image++) {
    await stack.generate({
      prompt: PROMPT,
      width: SIDE,
      height: SIDE,
      numInferenceSteps: STEPS,
      maxSequenceLength: TEXT_LENGTH,
      seed: BigInt(image),
    });
  }
  const seconds = (performance.now() - begun) / 1000;
  let cpuSeconds = 0;
  for (const [pid, after] of cpuSecondsByProcess(pids)) {
    const own = after - before.get(pid)!;
    const name = processName(pid).slice(0, PROCESS_NAME_CHARS);
    spent.set(name, (spent.get(name) ?? 0) + own);
    cpuSeconds += own;
  }
  return { seconds, cpuSeconds };
}

/** The bare loop in a process of its own, which waits between its turns. */
class BareLoop {
  readonly #process;
  readonly #lines: AsyncIterator<string>;
  #cpuSeconds = 0;

  constructor(model: string, images: number) {
    const script = fileURLToPath(new URL("bare-loop.ts", import.meta.url));
    const sizes = [SIDE, SIDE, STEPS, TEXT_LENGTH, images, 1].map(String);
    this.#process = spawn(process.execPath, [script, model, ...sizes], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async turn(): Promise<Turn> {
    let seconds = 0;
    const before = this.#cpuSeconds;
    for (let image = 0; image < IMAGES_PER_TURN; image++) {
      this.#process.stdin.write("image\n");
      const { value } = await this.#lines.next();
      const line = JSON.parse(value as string) as Turn;
      seconds += line.seconds;
      this.#cpuSeconds = line.cpuSeconds;
    }
    return { seconds, cpuSeconds: this.#cpuSeconds - before };
  }

  stop(): void {
    this.#process.kill("SIGKILL");
  }
}
