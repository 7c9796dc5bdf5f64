/** Our step against diffusers' step on the same checkpoint, one thread each, taking turns. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { resolveRequest } from "@fluxline/kernel/image-request.ts";
import { openCheckpoint } from "@fluxline/gpu-node/adapters/checkpoint-folder.ts";
import { describeModel } from "@fluxline/gpu-node/models/families.ts";
import { type Measurement, median } from "./measurement.ts";

const SIDE = "256";
const TEXT_LENGTH = "128";
const WARM_UP_ROUNDS = 2;
const ROUNDS = 12;

interface StepTime {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

/** A child that makes one step for each line it is sent. */
class Stepper {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(command: string, args: readonly string[]) {
    this.#child = spawn(command, args, {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, OMP_NUM_THREADS: "1", HF_HUB_OFFLINE: "1" },
    });
    const lines = createInterface({ input: this.#child.stdout! });
    this.#lines = lines[Symbol.asyncIterator]();
  }

  async step(): Promise<StepTime | undefined> {
    this.#child.stdin!.write("step\n");
    const { value, done } = await this.#lines.next();
    return done === true ? undefined : (JSON.parse(value) as StepTime);
  }

  stop(): void {
    this.#child.kill("SIGKILL");
  }
}

/** `python`: an interpreter with diffusers; without one nothing is measured. */
export async function stepRatio(model: string, python: string | undefined): Promise<Measurement[]> {
  const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
  const ours = new Stepper(process.execPath, [script("step-server.ts"), model, SIDE, TEXT_LENGTH]);
  const theirs =
    python === undefined
      ? undefined
      : new Stepper(python, [script("torch_step.py"), model, SIDE, TEXT_LENGTH]);
  const times: { ours: StepTime; theirs: StepTime | undefined }[] = [];
  try {
    for (let round = 0; round < WARM_UP_ROUNDS + ROUNDS; round++) {
      const own = await ours.step();
      const other = await theirs?.step();
      if (own === undefined) throw new Error("the step server ended early");
      if (round >= WARM_UP_ROUNDS) times.push({ ours: own, theirs: other });
    }
  } finally {
    ours.stop();
    theirs?.stop();
  }
  return report(times, await stepOperations(model));
}

async function stepOperations(folder: string): Promise<number> {
  const model = describeModel(await openCheckpoint(folder), { runType: "float32" });
  const size = {
    width: Number(SIDE),
    height: Number(SIDE),
    maxSequenceLength: Number(TEXT_LENGTH),
  };
  const resolution = resolveRequest(model.profile, { prompt: "", ...size }, 0n);
  if (!resolution.ok) throw new Error(JSON.stringify(resolution.violations));
  return model.cost(resolution.request).stepOperations;
}

function report(
  times: readonly { ours: StepTime; theirs: StepTime | undefined }[],
  operations: number,
): Measurement[] {
  const how = `dim 768, 3 + 6 blocks, 256 + 128 tokens, one thread, median of ${times.length}`;
  const seconds = median(times.map(({ ours }) => ours.seconds));
  const own = [
    { name: "step", value: seconds, unit: "s", note: how },
    {
      name: "arithmetic of the step",
      value: operations / seconds / 1e9,
      unit: "GFLOP/s",
      note: "one core; compare with its peak: 32 a cycle with AVX-512 on Zen 4",
    },
  ];
  const pairs = times.flatMap(({ ours, theirs }) =>
    theirs === undefined ? [] : [{ ours, theirs }],
  );
  if (pairs.length === 0) {
    console.error("no Python with diffusers: the comparison with torch is left out");
    return own;
  }
  const ratio = (pick: (time: StepTime) => number): number =>
    median(pairs.map(({ ours, theirs }) => pick(ours) / pick(theirs)));
  const note = `${how} pairs, taking turns`;
  return [
    ...own,
    {
      name: "step over diffusers + torch, wall",
      value: ratio(({ seconds }) => seconds),
      unit: "ratio",
      aim: { atMost: 0.6 },
      note,
    },
    {
      name: "step over diffusers + torch, CPU seconds",
      value: ratio(({ cpuSeconds }) => cpuSeconds),
      unit: "ratio",
      aim: { atMost: 0.6 },
      note,
    },
  ];
}
