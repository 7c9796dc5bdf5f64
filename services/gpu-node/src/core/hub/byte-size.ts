/** Sizes as people write them in settings, like `200GiB`, and as messages show them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;
const FACTORS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  ...Object.fromEntries(["k", "m", "g", "t"].map((letter, power) => [letter, 1024 ** (power + 1)])),
  ...Object.fromEntries(["kib", "mib", "gib", "tib"].map((u, power) => [u, 1024 ** (power + 1)])),
  ...Object.fromEntries(["kb", "mb", "gb", "tb"].map((u, power) => [u, 1000 ** (power + 1)])),
};

/** Undefined for what is no size. */
export function parseByteSize(text: string): number | undefined {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
  const factor = FACTORS[unit.toLowerCase()];
  if (number === undefined || factor === undefined) return undefined;
  const bytes = Math.floor(Number(number) * factor);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

export function byteSizeText(bytes: number): string {
  const power = bytes < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${power === 0 ? value : value.toFixed(1)} ${UNITS[power]}`;
}
