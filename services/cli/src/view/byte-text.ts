/** Sizes and counts for people: `1.2 GiB`, `11.9 billion`. */

const units = ["bytes", "KiB", "MiB", "GiB", "TiB"] as const;

export function byteText(bytes: number): string {
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${power === 0 ? value : value.toFixed(1)} ${units[power]}`;
}

export function countText(count: number): string {
  for (const [size, name] of [
    [1e15, "quadrillion"],
    [1e12, "trillion"],
    [1e9, "billion"],
    [1e6, "million"],
    [1e3, "thousand"],
  ] as const) {
    if (count >= size) return `${(count / size).toFixed(1)} ${name}`;
  }
  return String(count);
}
