/**
 * Numbers on the command line. Only what no model can take is refused here, before anything starts;
 * the limits of the model (65 is no width) are the server's to know, and it names them.
 */
import { InvalidArgumentError } from "commander";

/** Stages of a group, or groups: each is a process with a device of its own. */
const processesMax = 64;
const int32Max = 2 ** 31 - 1;
const seedMax = 2n ** 64n - 1n;

export function wholeNumber(
  example: number,
  { min = 1, max = int32Max } = {},
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^[+-]?\d+$/.test(text) && value >= min && value <= max) return value;
    const rule = `a whole number from ${min} to ${max}`;
    throw new InvalidArgumentError(`It is not ${rule}; use one, like ${example}.`);
  };
}

/** Takes what people write for "not a number" too, so that the server can say why it is wrong. */
export function realNumber(example: number): (text: string) => number {
  return (text) => {
    if (/^[+-]?(nan|inf(inity)?)$/i.test(text)) {
      return Number(text.replace(/nan/i, "NaN").replace(/inf(inity)?/i, "Infinity"));
    }
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && value >= 0) return value;
    throw new InvalidArgumentError(`It is not a number of 0 or more; use one, like ${example}.`);
  };
}

export function seed(text: string): bigint {
  const value = /^\d+$/.test(text) ? BigInt(text) : -1n;
  if (value >= 0n && value <= seedMax) return value;
  throw new InvalidArgumentError(`A seed is a whole number from 0 to ${seedMax}, like 42.`);
}

export function port(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value <= 65_535) return value;
  throw new InvalidArgumentError("A port is a number from 1 to 65535, or 0 for any free one.");
}

export function processCount(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= 1 && value <= processesMax) return value;
  throw new InvalidArgumentError(`Use a number from 1 to ${processesMax}, like 2.`);
}

export function threadCount(text: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= 1 && value <= 1024) return value;
  throw new InvalidArgumentError("Use a number of threads from 1 to 1024, like 2.");
}
