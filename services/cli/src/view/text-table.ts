/** Tables without lines: columns line up, and a program can still cut them apart. */
import Table from "cli-table3";

export function textTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const sides = ["top", "bottom", "left", "right", "mid"];
  const places = sides.flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`]);
  const table = new Table({
    head: [...head],
    chars: { ...Object.fromEntries(places.map((place) => [place, ""])), middle: "  " },
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [] },
  });
  for (const row of rows) table.push([...row]);
  const lines = table.toString().split("\n");
  return lines.map((line) => line.trimEnd()).join("\n");
}
