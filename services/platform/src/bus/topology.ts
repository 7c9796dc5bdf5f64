/**
 * Every subject, key-value bucket and object store of Fluxline, with its limits and with who
 * publishes, reads and writes it. The only place where such a name is spelled: code takes names
 * from here, and docs/bus.md is printed from here, for those who cut NATS permissions too.
 */
import { AppError } from "@fluxline/kernel/error.ts";

/** Parts of Fluxline that hold a connection to NATS. */
export type Role = "scheduler" | "gpu-node" | "operator";

const secondMs = 1_000;
const hourMs = 3_600 * secondMs;
const dayMs = 24 * hourMs;
const kib = 1_024;
const mib = 1_024 * kib;
const gib = 1_024 * mib;

/** The only tenant there is until tenants come; it stands in every key from the first day. */
export const tenantDefault = "default";

/** What our own nats-server allows in one message; everything larger is an object. */
export const payloadBytesMax = 8 * mib;

/** Longest time that a record, and so its images, may be kept. */
export const retentionMsMax = 7 * dayMs;

/** The lease of a pool's leader ends this long after it was last renewed. */
export const leaseTtlMs = 5 * secondMs;

export type LeaderVerb = "register" | "report" | "admit" | "cancel" | "echo";
export type GroupVerb = "assign" | "revoke" | "drain" | "heartbeat" | "progress";

export interface SubjectDeclaration {
  readonly pattern: string;
  readonly kind: "request" | "event";
  readonly message: string;
  readonly reply: string | undefined;
  readonly publishers: readonly Role[];
  readonly subscribers: readonly Role[];
  readonly purpose: string;
}

function request(
  verb: LeaderVerb | GroupVerb,
  [message, reply]: readonly [string, string],
  publishers: readonly Role[],
  purpose: string,
): SubjectDeclaration {
  const toLeader = ["register", "report", "admit", "cancel"].includes(verb);
  const pattern = `fl.v1.<pool>.${toLeader ? "leader" : "<group>"}.${verb}`;
  const subscribers: Role[] = [toLeader ? "scheduler" : "gpu-node"];
  return { pattern, kind: "request", message, reply, publishers, subscribers, purpose };
}

function event(
  pattern: string,
  message: string,
  publishers: readonly Role[],
  subscribers: readonly Role[],
  purpose: string,
): SubjectDeclaration {
  return { pattern, kind: "event", message, reply: undefined, publishers, subscribers, purpose };
}

export const subjects: readonly SubjectDeclaration[] = [
  request("register", ["Registration", "RegistrationReply"], ["gpu-node"], "A group has started."),
  request("report", ["Report", "ReportReply"], ["gpu-node"], "What became of a placement."),
  request("admit", ["AdmitRequest", "AdmitReply"], ["scheduler"], "A validated job, to record."),
  request("cancel", ["CancelRequest", "CancelReply"], ["scheduler"], "A client's cancel."),
  request("assign", ["Assign", "CommandReply"], ["scheduler"], "A job is placed on the group."),
  request("revoke", ["Revoke", "CommandReply"], ["scheduler"], "Stop at the next step boundary."),
  request("drain", ["Drain", "CommandReply"], ["operator"], "Take nothing new, hand all back."),
  event(
    "fl.v1.<pool>.<group>.heartbeat",
    "Heartbeat",
    ["gpu-node"],
    ["scheduler", "operator"],
    "Each second: capacity, residents, health.",
  ),
  event(
    "fl.v1.<pool>.<group>.progress",
    "JobProgress",
    ["gpu-node"],
    ["scheduler"],
    "Steps done, and previews; lost if nobody listens.",
  ),
  event(
    "fl.v1.<pool>.leader.echo",
    "(8 bytes: the epoch)",
    ["scheduler"],
    ["scheduler"],
    "The leader hears itself: its path through NATS is proven.",
  ),
];

export interface BucketDeclaration {
  readonly name: string;
  /** Layout of a key. */
  readonly key: string;
  readonly value: string;
  /** 0: values do not expire by age. */
  readonly ttlMs: number;
  readonly maxBytes: number;
  readonly valueBytesMax: number;
  readonly writers: readonly Role[];
  readonly readers: readonly Role[];
  readonly purpose: string;
}

/** Values kept per key. */
export const bucketHistory = 1;

export const jobsBucket = {
  name: "jobs",
  key: "<pool>.<tenant>.<id>",
  value: "JobRecord",
  ttlMs: 0,
  maxBytes: 512 * mib,
  valueBytesMax: mib,
  writers: ["scheduler"],
  readers: ["scheduler"],
  purpose: "Job records. Written by the pool's leader only, by compare-and-set.",
} as const satisfies BucketDeclaration;

export const poolsBucket = {
  name: "pools",
  key: "<pool>",
  value: "PoolRecord",
  ttlMs: 0,
  maxBytes: 64 * mib,
  valueBytesMax: 256 * kib,
  writers: ["scheduler"],
  readers: ["scheduler", "operator"],
  purpose: "Profile of each pool: validates requests also while the pool has no group.",
} as const satisfies BucketDeclaration;

export const leadersBucket = {
  name: "leaders",
  key: "<pool>",
  value: "LeaderLease",
  ttlMs: leaseTtlMs,
  maxBytes: 16 * mib,
  valueBytesMax: 4 * kib,
  writers: ["scheduler"],
  readers: ["scheduler", "operator"],
  purpose: "Lease of each pool's leader; the revision that created it is the epoch.",
} as const satisfies BucketDeclaration;

export const buckets: readonly BucketDeclaration[] = [jobsBucket, poolsBucket, leadersBucket];

export interface ObjectStoreDeclaration {
  readonly name: string;
  readonly key: string;
  readonly ttlMs: number;
  readonly maxBytes: number;
  readonly objectBytesMax: number;
  readonly writers: readonly Role[];
  /** They list it, too. */
  readonly deleters: readonly Role[];
  readonly readers: readonly Role[];
  readonly purpose: string;
}

export const resultsStore = {
  name: "results",
  key: "<pool>/<tenant>/<job>/<attempt>/<image>",
  ttlMs: retentionMsMax + dayMs,
  maxBytes: 4 * gib,
  objectBytesMax: 256 * mib,
  writers: ["gpu-node"],
  deleters: ["scheduler"],
  readers: ["scheduler"],
  purpose: "Finished images. Deleted with their record; the TTL is only the last resort.",
} as const satisfies ObjectStoreDeclaration;

export const checkpointsStore = {
  name: "checkpoints",
  key: "<pool>/<tenant>/<job>/<attempt>/<image>-<step>",
  ttlMs: 2 * dayMs,
  maxBytes: 2 * gib,
  objectBytesMax: 256 * mib,
  writers: ["gpu-node"],
  deleters: ["scheduler"],
  readers: ["gpu-node"],
  purpose: "Latents at a step boundary, to go on from elsewhere. Deleted when newer ones exist.",
} as const satisfies ObjectStoreDeclaration;

export const objectStores: readonly ObjectStoreDeclaration[] = [resultsStore, checkpointsStore];

// --- names -----------------------------------------------------------------------------------

const tokenPattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Pool, group and tenant ids are DNS labels, so that they fit subjects, keys and Kubernetes. */
export function isToken(value: string): boolean {
  return tokenPattern.test(value);
}

function token(what: string, value: string): string {
  // A group called "leader" would share the leader's subjects.
  if (isToken(value) && !(what === "group" && value === "leader")) return value;
  throw new AppError(
    "invalid_argument",
    `${what} id "${value}" is not usable: use 1 to 63 characters of a-z, 0-9 and "-", with a ` +
      `letter or digit at both ends${what === "group" ? ', other than "leader"' : ""}`,
    { reason: "INVALID_ID" },
  );
}

export function leaderSubject(pool: string, verb: LeaderVerb): string {
  return `fl.v1.${token("pool", pool)}.leader.${verb}`;
}

export function groupSubject(pool: string, group: string, verb: GroupVerb): string {
  return `fl.v1.${token("pool", pool)}.${token("group", group)}.${verb}`;
}

/** All groups of a pool. */
export function everyGroupSubject(pool: string, verb: "heartbeat" | "progress"): string {
  return `fl.v1.${token("pool", pool)}.*.${verb}`;
}

/** All pools; the pool of a message is the third part of its subject. */
export function everyPoolSubject(verb: LeaderVerb): string {
  return `fl.v1.*.leader.${verb}`;
}

/** All groups of all pools. */
export function everyPoolGroupSubject(verb: "heartbeat" | "progress"): string {
  return `fl.v1.*.*.${verb}`;
}

export interface JobKey {
  readonly pool: string;
  readonly tenant: string;
  readonly id: string;
}

export function jobKey(key: JobKey): string {
  return keyOfPool(key.pool, `${key.tenant}.${key.id}`);
}

/** Of a key without the pool, and back. */
export function keyOfPool(pool: string, keyInPool: string): string {
  return `${pool}.${keyInPool}`;
}

export function keyInPool(pool: string, key: string): string {
  return key.slice(pool.length + 1);
}

/** Key of one finished image; immutable, because the attempt is part of it. */
export function resultKey(key: JobKey, attempt: bigint, image: number): string {
  return `${key.pool}/${key.tenant}/${key.id}/${attempt}/${image}`;
}

/** Key of the checkpoint of one image after `step` steps; immutable too. */
export function checkpointKey(key: JobKey, attempt: bigint, image: number, step: number): string {
  return `${key.pool}/${key.tenant}/${key.id}/${attempt}/${image}-${step}`;
}

/** The job that a blob belongs to; undefined for a key of another layout. */
export function jobOfBlob(blobKey: string): JobKey | undefined {
  const [pool, tenant, id, attempt, name, ...rest] = blobKey.split("/");
  if (!pool || !tenant || !id || !attempt || !name || rest.length > 0) return undefined;
  return { pool, tenant, id };
}
