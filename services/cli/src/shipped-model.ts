/** The model that comes with Fluxline, small enough for any machine. */
import { relative } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../../../models/flux-tiny", import.meta.url));

/** As short as it can be said from here. */
export const shippedModel = shorter(relative(process.cwd(), folder), folder);

function shorter(a: string, b: string): string {
  return a !== "" && a.length < b.length ? a : b;
}
