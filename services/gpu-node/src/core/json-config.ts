/**
 * Reads the JSON files of a checkpoint one key at a time. A key that is missing, of the wrong kind
 * or outside its range is an error that names file, key and value: a silent default for a
 * misspelt value would give wrong pictures, not a message. As in the libraries that write these
 * files, `null` means absent.
 */
import { checkpointError, shown } from "./checkpoint-error.ts";

export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The JSON object in `text`; anything else is an error that names the file. */
export function parseJsonObject(file: string, text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw checkpointError(file, `is not JSON (${why}); fetch the file again`, cause);
  }
  if (isJsonObject(value)) return value;
  throw checkpointError(file, `holds ${shown(value)} where a JSON object is expected`);
}

export interface IntegerRule {
  readonly min?: number;
  readonly max?: number;
  /** Taken when the key is absent; without it the key is required. */
  readonly fallback?: number;
}

export interface NumberRule extends IntegerRule {
  /** Exclusive lower bound. */
  readonly above?: number;
}

export class JsonConfig {
  /** Path of the file, as it stands in messages. */
  readonly file: string;
  readonly #values: JsonObject;

  constructor(file: string, values: JsonObject) {
    this.file = file;
    this.#values = values;
  }

  static parse(file: string, text: string): JsonConfig {
    return new JsonConfig(file, parseJsonObject(file, text));
  }

  has(key: string): boolean {
    return this.value(key) !== undefined;
  }

  entries(): readonly (readonly [string, unknown])[] {
    return Object.entries(this.#values);
  }

  /** The raw value; `undefined` when the key is absent or null. */
  value(key: string): unknown {
    return Object.hasOwn(this.#values, key) ? (this.#values[key] ?? undefined) : undefined;
  }

  integer(key: string, rule: IntegerRule = {}): number {
    const value = this.#numeric(key, rule, "a whole number");
    if (Number.isSafeInteger(value)) return value;
    throw this.error(key, `is ${shown(value)}; use a whole number`);
  }

  number(key: string, rule: NumberRule = {}): number {
    const value = this.#numeric(key, rule, "a number");
    if (rule.above === undefined || value > rule.above) return value;
    throw this.error(key, `is ${value}; use a number above ${rule.above}`);
  }

  boolean(key: string, fallback?: boolean): boolean {
    const value = this.value(key) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.#kind(key, value, "true or false");
  }

  string(key: string, fallback?: string): string {
    const value = this.value(key) ?? fallback;
    if (typeof value === "string") return value;
    throw this.#kind(key, value, "a string");
  }

  /** A string out of a closed list: the values that this program can compute. */
  oneOf<T extends string>(key: string, allowed: readonly T[], fallback?: T): T {
    const value = this.string(key, fallback);
    const found = allowed.find((candidate) => candidate === value);
    if (found !== undefined) return found;
    throw this.error(key, `is ${shown(value)}; supported: ${allowed.join(", ")}`);
  }

  integers(key: string, rule: { min?: number; fallback?: readonly number[] } = {}): number[] {
    const min = rule.min ?? 1;
    const value = this.value(key) ?? rule.fallback;
    const valid = (item: unknown): item is number =>
      Number.isSafeInteger(item) && Number(item) >= min;
    if (Array.isArray(value) && value.length > 0 && value.every(valid)) return [...value];
    throw this.#kind(key, value, `a list of whole numbers of at least ${min}`);
  }

  strings(key: string): string[] {
    const value = this.value(key);
    const valid = (item: unknown): item is string => typeof item === "string";
    if (Array.isArray(value) && value.length > 0 && value.every(valid)) return [...value];
    throw this.#kind(key, value, "a list of strings");
  }

  /** An error about this key; `description` says the value and the way out. */
  error(key: string, description: string): Error {
    return checkpointError(`${this.file}: ${key}`, description);
  }

  #numeric(key: string, rule: IntegerRule, kind: string): number {
    const value = this.value(key) ?? rule.fallback;
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.#kind(key, value, kind);
    const { min = -Infinity, max = Infinity } = rule;
    if (value >= min && value <= max) return value;
    const range = max === Infinity ? `at least ${min}` : `${min} to ${max}`;
    throw this.error(key, `is ${value}; use ${kind} of ${range}`);
  }

  #kind(key: string, value: unknown, expected: string): Error {
    if (value === undefined) return this.error(key, `is missing; it must be ${expected}`);
    return this.error(key, `is ${shown(value)}; it must be ${expected}`);
  }
}
