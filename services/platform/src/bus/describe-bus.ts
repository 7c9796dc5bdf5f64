/** The bus as a page for people. */
import {
  buckets,
  objectStores,
  payloadBytesMax,
  type SubjectDeclaration,
  subjects,
} from "./topology.ts";

const mib = 1_048_576;

/** docs/bus.md; a unit test holds the file to this. */
export function describeBus(): string {
  return [
    "# The bus",
    "",
    "Printed from `services/platform/src/bus/topology.ts`; change it there, then run",
    "`npx vitest run --project unit services/platform -u`.",
    "",
    `Where we run NATS, a message has at most ${payloadBytesMax / mib} MiB; larger things are objects.`,
    "",
    "## Subjects",
    "",
    "| subject | kind | message | reply | publishers | subscribers | purpose |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...subjects.map(subjectRow),
    "",
    "## Buckets",
    "",
    "One value is kept per key. `allow_direct` is off: every read is answered by the stream's leader.",
    "",
    "| bucket | key | value | TTL | size | largest value | writers | readers | purpose |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...buckets.map((bucket) => {
      const { name, key, value, purpose, writers, readers } = bucket;
      const limits = `${duration(bucket.ttlMs)} | ${size(bucket.maxBytes)}`;
      const cells = `\`${name}\` | \`${key}\` | ${value} | ${limits}`;
      const roles = `${writers.join(", ")} | ${readers.join(", ")}`;
      return `| ${cells} | ${size(bucket.valueBytesMax)} | ${roles} | ${purpose} |`;
    }),
    "",
    "## Object stores",
    "",
    "| store | key | TTL | size | largest object | writers | deleters | readers | purpose |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...objectStores.map((store) => {
      const { name, key, purpose, writers, deleters, readers } = store;
      const limits = `${duration(store.ttlMs)} | ${size(store.maxBytes)}`;
      const roles = [writers, deleters, readers].map((each) => each.join(", ")).join(" | ");
      const largest = size(store.objectBytesMax);
      return `| \`${name}\` | \`${key}\` | ${limits} | ${largest} | ${roles} | ${purpose} |`;
    }),
    "",
  ].join("\n");
}

function subjectRow(subject: SubjectDeclaration): string {
  const { pattern, kind, message, reply, publishers, subscribers, purpose } = subject;
  const roles = `${publishers.join(", ")} | ${subscribers.join(", ")}`;
  return `| \`${pattern}\` | ${kind} | ${message} | ${reply ?? "-"} | ${roles} | ${purpose} |`;
}

function duration(ms: number): string {
  if (ms === 0) return "-";
  return ms >= 86_400_000 ? `${ms / 86_400_000} d` : `${ms / 1_000} s`;
}

function size(bytes: number): string {
  if (bytes >= 1_024 * mib) return `${bytes / mib / 1_024} GiB`;
  return bytes >= mib ? `${bytes / mib} MiB` : `${bytes / 1_024} KiB`;
}
