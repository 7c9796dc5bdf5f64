/** How long a person waits: `fluxline generate` with a private stack, from its start. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Measurement, median } from "./measurement.ts";

const LAUNCHER = fileURLToPath(new URL("../../services/cli/bin/fluxline.mjs", import.meta.url));
const ROUNDS = 5;

export async function firstStep(): Promise<Measurement[]> {
  const rounds: { firstStep: number; whole: number }[] = [];
  for (let round = 0; round < ROUNDS; round++) rounds.push(await generateOnce());
  const note = `flux-tiny, 20 steps, private stack included, median of ${ROUNDS}`;
  return [
    {
      name: "generate: start to first step",
      value: median(rounds.map((round) => round.firstStep)),
      unit: "s",
      aim: { atMost: 1.5 },
      note,
    },
    { name: "generate: start to end", value: median(rounds.map((r) => r.whole)), unit: "s", note },
  ];
}

async function generateOnce(): Promise<{ firstStep: number; whole: number }> {
  const folder = mkdtempSync(join(tmpdir(), "fluxline-bench-"));
  const begun = performance.now();
  const seconds = (): number => (performance.now() - begun) / 1000;
  const options = ["--steps", "20", "--output", join(folder, "a.png"), "--json"];
  const child = spawn(
    process.execPath,
    [LAUNCHER, "generate", "a red circle on a blue background", ...options],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
  let firstStepSeconds = Number.NaN;
  for await (const line of createInterface({ input: child.stdout })) {
    const step = /"step":\s*(\d+)/.exec(line)?.[1];
    if (Number(step) >= 1 && Number.isNaN(firstStepSeconds)) firstStepSeconds = seconds();
  }
  const code = await ended;
  rmSync(folder, { recursive: true, force: true });
  if (code !== 0) throw new Error(`fluxline generate ended with ${code}`);
  return { firstStep: firstStepSeconds, whole: seconds() };
}
