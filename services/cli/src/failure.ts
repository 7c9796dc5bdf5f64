/** How an error is told: in plain English with its way out, or as one JSON object for machines. */
import { type AppError, toAppError, toErrorRecord } from "@fluxline/kernel/error.ts";
import { printLine, type Session } from "./session.ts";

/** Facts worth showing a person besides the message; the rest is for machines. */
const shownDetails = ["folder", "pid", "log"];

export function describeFailure(error: AppError): string {
  const lines = [
    `error: ${error.violations.length > 1 ? "several fields are wrong" : error.message}`,
  ];
  if (error.violations.length > 1) {
    for (const { field, description } of error.violations) lines.push(`  ${field}: ${description}`);
  }
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

export function reportFailure(thrown: unknown, session: Session, json: boolean): void {
  const error = toAppError(thrown);
  if (json) printLine(session.stderr, JSON.stringify({ error: toErrorRecord(error) }));
  else printLine(session.stderr, describeFailure(error));
}
