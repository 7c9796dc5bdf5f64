/** What a benchmark found: figures with their aims, as a table for people and JSON for machines. */
import Table from "cli-table3";

export interface Measurement {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** What we want: a bound in the same unit. */
  readonly aim?: { readonly atMost?: number; readonly atLeast?: number };
  /** How it was taken. */
  readonly note: string;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The least and the most of several values, for a note. */
export function rangeText(values: readonly number[]): string {
  return `${Math.min(...values).toFixed(3)} to ${Math.max(...values).toFixed(3)}`;
}

export function meetsAim({ value, aim }: Measurement): boolean | undefined {
  if (aim === undefined) return undefined;
  return value <= (aim.atMost ?? Infinity) && value >= (aim.atLeast ?? -Infinity);
}

export function measurementTable(measurements: readonly Measurement[]): string {
  const table = new Table({
    head: ["what", "value", "unit", "aim", "", "how"],
    colAligns: ["left", "right", "left", "right", "left", "left"],
    colWidths: [44, 10, 12, 10, 8, 52],
    wordWrap: true,
    chars: { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" },
    style: { head: [], border: [] },
  });
  for (const measurement of measurements) {
    const { name, value, unit, aim, note } = measurement;
    const wanted =
      aim?.atMost !== undefined
        ? `<= ${aim.atMost}`
        : aim?.atLeast !== undefined
          ? `>= ${aim.atLeast}`
          : "";
    const met = meetsAim(measurement);
    const verdict = met === undefined ? "" : met ? "met" : "missed";
    table.push([name, value.toFixed(value < 10 ? 3 : 1), unit, wanted, verdict, note]);
  }
  return table.toString();
}
