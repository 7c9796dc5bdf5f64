/** Resource names: `pools/<pool>` and `pools/<pool>/jobs/<id>`. */
import { type AppError, invalidArgument } from "@fluxline/kernel/error.ts";

export interface JobName {
  readonly pool: string;
  readonly id: string;
}

const label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
const poolPattern = new RegExp(`^pools/(${label})$`);
const jobPattern = new RegExp(`^pools/(${label})/jobs/([a-z0-9]{1,64})$`);
const shownCharsMax = 100;

export function jobName({ pool, id }: JobName): string {
  return `pools/${pool}/jobs/${id}`;
}

export function poolName(pool: string): string {
  return `pools/${pool}`;
}

/** Throws an INVALID_ARGUMENT that shows the form. */
export function parseJobName(field: string, name: string): JobName {
  const [, pool, id] = jobPattern.exec(name) ?? [];
  if (pool === undefined || id === undefined) throw badName(field, name, "pools/<pool>/jobs/<id>");
  return { pool, id };
}

/** `pools/<pool>`, or the pool's id alone. */
export function parsePoolName(field: string, name: string): string {
  const full = name.includes("/") ? name : poolName(name);
  const [, pool] = poolPattern.exec(full) ?? [];
  if (pool === undefined) throw badName(field, name, "pools/<pool>");
  return pool;
}

function badName(field: string, name: string, form: string): AppError {
  const shown = name.length > shownCharsMax ? `${name.slice(0, shownCharsMax)}...` : name;
  const description = `is "${shown}"; use a name of the form ${form}`;
  return invalidArgument([{ field, description }], "INVALID_NAME");
}
