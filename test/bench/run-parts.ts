/**
 * Takes the parts of a benchmark that its command line names, or all of them, prints what was found
 * as a table, and writes it to a file. Each part has a time budget: it says when it needed more, and
 * is ended at twice as much.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { type Measurement, measurementTable } from "./measurement.ts";

export interface Part {
  readonly budgetSeconds: number;
  measure(): Promise<Measurement[]>;
}

/** Ends the process when a part fails or the command line names one that there is not. */
export async function runParts(parts: Readonly<Record<string, Part>>, file: string): Promise<void> {
  // What a part has started is ended when this process exits, which a signal alone would not bring.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(1));
  const { positionals } = parseArgs({ allowPositionals: true });
  const unknown = positionals.filter((name) => !Object.hasOwn(parts, name));
  if (unknown.length > 0) {
    console.error(`no part ${unknown.join(", ")}; there are ${Object.keys(parts).join(", ")}`);
    process.exit(2);
  }
  const measurements: Measurement[] = [];
  try {
    for (const [name, part] of Object.entries(parts)) {
      if (positionals.length > 0 && !positionals.includes(name)) continue;
      measurements.push(...(await measureWithin(name, part)));
    }
  } catch (thrown) {
    console.error(thrown);
    process.exit(1); // ends what the part had started, too
  }
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(measurements, undefined, 2)}\n`);
  console.log(measurementTable(measurements));
  console.log(`written to ${file}`);
}

async function measureWithin(name: string, { budgetSeconds, measure }: Part) {
  console.error(`measuring: ${name}, within ${budgetSeconds} s`);
  const begun = performance.now();
  const { promise, reject } = Promise.withResolvers<never>();
  const late = () => reject(new Error(`${name} took more than ${2 * budgetSeconds} s`));
  const timer = setTimeout(late, 2_000 * budgetSeconds);
  const measurements = await Promise.race([measure(), promise]).finally(() => clearTimeout(timer));
  const seconds = (performance.now() - begun) / 1000;
  const verdict = seconds > budgetSeconds ? "over its budget of" : "of";
  console.error(`  took ${seconds.toFixed(0)} s ${verdict} ${budgetSeconds} s`);
  return measurements;
}
