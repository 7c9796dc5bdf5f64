/**
 * Makes the declared buckets and object stores, and brings those that exist in line. nats.js opens
 * an existing bucket whatever its settings are: a lease bucket without TTL would then hold its
 * first leader for ever. Safe to run from several processes at once.
 */
import { DiscardPolicy, StorageType } from "@nats-io/jetstream";
import type { StreamConfig } from "@nats-io/jetstream";
import type { Bus } from "./connection.ts";
import { isMissing, storeError } from "./store-error.ts";
import {
  type BucketDeclaration,
  bucketHistory,
  buckets,
  type ObjectStoreDeclaration,
  objectStores,
} from "./topology.ts";

type Wanted = Partial<StreamConfig> & { name: string };

type Settings = Required<ProvisionOptions>;

const nanosPerMs = 1_000_000;

export interface ProvisionOptions {
  /** Copies of each stream; 1 unless NATS is a cluster. */
  readonly replicas?: number;
  /**
   * Multiplies every declared size. NATS sets the sum of all sizes aside and refuses a stream that
   * no longer fits its own limit (by default three quarters of the free disk).
   */
  readonly sizeScale?: number;
}

export async function provisionStores(bus: Bus, options: ProvisionOptions = {}): Promise<void> {
  const { replicas = 1, sizeScale = 1 } = options;
  const settings = { replicas, sizeScale };
  const wanted = [
    ...buckets.map((bucket) => bucketStream(bucket, settings)),
    ...objectStores.map((store) => objectStream(store, settings)),
  ];
  await Promise.all(wanted.map((stream) => provision(bus, stream)));
}

async function provision(bus: Bus, wanted: Wanted): Promise<void> {
  const { streams } = bus.jetStreamManager;
  try {
    const present = await streams.info(wanted.name).catch((thrown: unknown) => {
      if (isMissing(thrown)) return undefined;
      throw thrown;
    });
    if (!present) await streams.add(wanted);
    else if (differs(present.config, wanted)) await streams.update(wanted.name, wanted);
  } catch (thrown) {
    throw storeError(wanted.name, thrown);
  }
}

function differs(present: StreamConfig, wanted: Wanted): boolean {
  const keys = Object.keys(wanted) as (keyof StreamConfig)[];
  return keys.some((key) => {
    // A server leaves out what is off.
    const [have, want] = [present[key] ?? false, wanted[key] ?? false];
    return JSON.stringify(have) !== JSON.stringify(want);
  });
}

/** The stream behind a bucket, as nats.js and every other client expect it. */
function bucketStream(bucket: BucketDeclaration, options: Settings): Wanted {
  return {
    name: `KV_${bucket.name}`,
    subjects: [`$KV.${bucket.name}.>`],
    max_msgs_per_subject: bucketHistory,
    max_bytes: Math.round(bucket.maxBytes * options.sizeScale),
    max_msg_size: bucket.valueBytesMax,
    max_age: bucket.ttlMs * nanosPerMs,
    storage: StorageType.File,
    num_replicas: options.replicas,
    discard: DiscardPolicy.New,
    allow_rollup_hdrs: true,
    allow_direct: false,
  };
}

function objectStream(store: ObjectStoreDeclaration, options: Settings): Wanted {
  return {
    name: `OBJ_${store.name}`,
    subjects: [`$O.${store.name}.C.>`, `$O.${store.name}.M.>`],
    max_bytes: Math.round(store.maxBytes * options.sizeScale),
    max_age: store.ttlMs * nanosPerMs,
    storage: StorageType.File,
    num_replicas: options.replicas,
    discard: DiscardPolicy.New,
    allow_rollup_hdrs: true,
    allow_direct: false,
  };
}
