/** How alike two pictures are: peak signal over noise, in decibels; 99 where nothing differs. */
export function noiseRatio(a: Uint8Array, b: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - b[i]!) ** 2;
  return sum === 0 ? 99 : 10 * Math.log10((255 ** 2 * a.length) / sum);
}
