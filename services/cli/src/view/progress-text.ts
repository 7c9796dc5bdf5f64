/** What a part that starts is busy with, as one line. */
import { byteText } from "./byte-text.ts";

export function progressText(progress: {
  readonly child: string;
  readonly what: string;
  readonly done: number;
  readonly total: number;
  readonly unit: "bytes" | "files";
}): string {
  const { child, what, done, total, unit } = progress;
  const count = (value: number): string => (unit === "bytes" ? byteText(value) : String(value));
  const of = `${count(done)} of ${count(total)}`;
  return `${child}: ${what}, ${of}${unit === "files" ? " files" : ""}`;
}
