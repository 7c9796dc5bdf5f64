/** How an error is told: in plain English with its way out, or as one JSON object for machines. */
import { type AppError, toAppError, toErrorRecord } from "@fluxline/kernel/error.ts";
import { printLine, type Session } from "./session.ts";

/** Facts worth showing a person besides the message; the rest is for machines. */
const shownDetails = ["folder", "pid", "log"];

/** Fields of the API under the names that a person typed. */
const optionNames: Readonly<Record<string, string>> = {
  "spec.prompt": "PROMPT",
  "spec.prompt_2": "--prompt-2",
  "spec.negative_prompt": "--negative-prompt",
  "spec.true_cfg_scale": "--true-cfg-scale",
  "spec.num_inference_steps": "--steps",
  "spec.guidance_scale": "--guidance",
  "spec.width": "--width",
  "spec.height": "--height",
  "spec.seed": "--seed",
  "spec.max_sequence_length": "--max-sequence-length",
  "spec.image_count": "--count",
  "spec.preview_count": "--previews",
  "spec.output_format": "--format",
};

export function describeFailure(error: AppError): string {
  const lines = error.violations
    .filter(({ field }) => field in optionNames || error.violations.length > 1)
    .map(({ field, description }) => `  ${optionNames[field] ?? field}: ${description}`);
  const [only] = lines;
  if (only === undefined) lines.unshift(`error: ${error.message}`);
  else if (lines.length === 1) lines[0] = `error: ${only.trimStart()}`;
  else lines.unshift("error: several values are wrong");
  for (const key of shownDetails) {
    const value = error.details[key];
    if (value !== undefined && !error.message.includes(value)) lines.push(`  ${key}: ${value}`);
  }
  if (error.retryAfterMs !== undefined) {
    lines.push(`  try again in ${Math.ceil(error.retryAfterMs / 1000)} s`);
  }
  if (error.code === "internal" && error.cause instanceof Error && error.cause.stack) {
    lines.push(error.cause.stack);
  }
  return lines.join("\n");
}

/** A value that was refused before anything was started or asked. */
export class RefusedValue extends Error {
  readonly refusal: AppError;

  constructor(refusal: AppError) {
    super(refusal.message, { cause: refusal });
    this.refusal = refusal;
  }
}

/** Runs checks of what the user typed: their refusals are mistakes of the command line. */
export async function checkValues<T>(check: () => T | Promise<T>): Promise<T> {
  try {
    return await check();
  } catch (thrown) {
    throw new RefusedValue(toAppError(thrown));
  }
}

export function reportFailure(thrown: unknown, session: Session, json: boolean): void {
  const error = toAppError(thrown);
  if (json) printLine(session.stderr, JSON.stringify({ error: toErrorRecord(error) }));
  else printLine(session.stderr, describeFailure(error));
}
