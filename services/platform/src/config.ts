/**
 * Settings as a tree of data: each has an environment variable, a rule and a sentence. `readConfig`
 * checks all of them at once; `describeConfig` prints the reference page from the same tree.
 * Only a `main.ts` passes `process.env` in.
 */
import { invalidArgument, type FieldViolation } from "@fluxline/kernel/error.ts";
import { z } from "zod";

export interface Setting<Schema extends z.ZodType = z.ZodType> {
  readonly env: string;
  /** Gets the variable's text, or undefined; a default belongs to the schema. */
  readonly schema: Schema;
  /** One sentence for people. */
  readonly purpose: string;
}

export type ConfigTree = Readonly<Record<string, Setting>>;
export type Config<Tree extends ConfigTree> = {
  readonly [Name in keyof Tree]: z.output<Tree[Name]["schema"]>;
};

export function setting<Schema extends z.ZodType>(
  env: string,
  schema: Schema,
  purpose: string,
): Setting<Schema> {
  return { env, schema, purpose };
}

export const text = z.string().min(1);
export const wholeNumber = (min: number, max: number) => z.coerce.number().int().min(min).max(max);
export const positiveNumber = z.coerce.number().positive();
export const onOff = z
  .enum(["on", "off", "true", "false", "1", "0"])
  .transform((value) => value === "on" || value === "true" || value === "1");
export const list = z.string().transform((value) =>
  value
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== ""),
);

/** Throws one INVALID_ARGUMENT that names every wrong variable. */
export function readConfig<Tree extends ConfigTree>(
  tree: Tree,
  env: Readonly<Record<string, string | undefined>>,
): Config<Tree> {
  const values: Record<string, unknown> = {};
  const violations: FieldViolation[] = [];
  for (const [name, { env: variable, schema }] of Object.entries(tree)) {
    const given = env[variable] === "" ? undefined : env[variable];
    const result = schema.safeParse(given);
    if (result.success) values[name] = result.data;
    else {
      const why = result.error.issues.map((issue) => issue.message).join("; ");
      const value = given === undefined ? "is not set" : `is "${given}"`;
      violations.push({ field: variable, description: `${value}: ${why}` });
    }
  }
  if (violations.length > 0) throw invalidArgument(violations, "INVALID_CONFIG");
  return values as Config<Tree>;
}

/** The tree as a Markdown table. */
export function describeConfig(tree: ConfigTree): string {
  const rows = Object.values(tree).map(({ env, schema, purpose }) => {
    const unset = schema.safeParse(undefined);
    const fallback = unset.success ? defaultText(unset.data) : "required";
    return `| \`${env}\` | ${fallback} | ${purpose} |`;
  });
  return ["| variable | default | what it does |", "| --- | --- | --- |", ...rows, ""].join("\n");
}

function defaultText(value: unknown): string {
  if (value === undefined) return "-";
  if (typeof value === "string") return `\`${value}\``;
  return `\`${JSON.stringify(value)}\``;
}
