/** Every maximum and every interval of the scheduler's core, by name. */

/** Failures that are a job's own fault; with the last one it ends. */
export const BLAMED_FAILURES_MAX = 2;

/** Attempts in a row that may end without a step or an image more. */
export const FRUITLESS_ATTEMPTS_MAX = 10;

/** After a failure that another attempt may mend, a job waits; each time in a row twice as long. */
export const RETRY_DELAY_MS_FIRST = 500;
export const RETRY_DELAY_MS_MAX = 30_000;

/** Weight of a tenant beside others on a group, until tenants have their own. */
export const TENANT_SHARE_DEFAULT = 1;

/** Jobs that may wait in one pool. */
export const QUEUED_JOBS_MAX = 1_000;

/** By how much a job's record may grow until its end: an error, advisories, ... */
export const RECORD_GROWTH_BYTES = 2_048;
/** ... and with each image, the pointer to it and its description. */
export const RECORD_GROWTH_BYTES_PER_IMAGE = 448;

/** What the store keeps beside a record: its key, and what it needs itself. */
export const RECORD_KEY_BYTES = 320;

/** Inputs that wait for one job's write; a group sends its reports again, a client its cancel. */
export const WAITING_PER_JOB_MAX = 32;

/** Replica groups of one pool. */
export const GROUPS_PER_POOL_MAX = 512;

/** Placements decided in one step, so that a step stays short. */
export const PLACEMENTS_PER_STEP_MAX = 64;

/** Expired records purged in one tick. */
export const PURGES_PER_TICK_MAX = 100;

/** Incarnations of one group that are remembered as ended. */
export const RETIRED_INCARNATIONS_MAX = 16;

/** The adapter ticks the core this often. */
export const TICK_MS = 500;

/** The leader sends itself an echo this often. */
export const ECHO_EVERY_MS = 1_000;

/** Without an echo for this long, the leader's own path through NATS counts as broken. */
export const ECHO_FRESH_MS = 2_500;

/** A group that is silent for this long is lost, while the leader's own path is proven. */
export const GROUP_SILENCE_MS = 5_000;

/** After the path came back (or at the start), groups have this long to be heard again. */
export const OUTAGE_GRACE_MS = 6_000;

/** A model that no group has served for this long, while others are served, is gone. */
export const MODEL_GONE_MS = 60_000;

/** A job that its group has not listed for this long is no longer there. */
export const DROPPED_MS = 12_000;

/** A revoke that shows no effect is sent again after this time; revokes change nothing twice. */
export const REVOKE_AGAIN_MS = 3_000;

/** A group that did not take a job gets no other one for this time. */
export const GROUP_HOLD_MS = 1_500;

/** After the store refused a write, nothing is placed for this time. */
export const STORE_HOLD_MS = 1_000;

/** What a client is told to wait when the queue is full. */
export const QUEUE_FULL_RETRY_MS = 2_000;

/** Version of the protocol between scheduler and groups that this code speaks. */
export const PROTOCOL_VERSION = 1;
