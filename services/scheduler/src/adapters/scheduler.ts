/** One replica of the scheduler: its parts in the order in which they start and end. */
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "@fluxline/platform/bus/connection.ts";
import { openKeyValue } from "@fluxline/platform/bus/key-value.ts";
import { openObjects } from "@fluxline/platform/bus/object-store.ts";
import { provisionStores } from "@fluxline/platform/bus/provision.ts";
import {
  checkpointsStore,
  jobsBucket,
  leadersBucket,
  poolsBucket,
  resultsStore,
} from "@fluxline/platform/bus/topology.ts";
import { type GrpcServer, serveGrpc } from "@fluxline/platform/grpc/server.ts";
import type { Lifecycle } from "@fluxline/platform/lifecycle.ts";
import type { Logger } from "@fluxline/platform/log.ts";
import type { Registry } from "@fluxline/platform/metrics.ts";
import type { Clock } from "@fluxline/kernel/clock.ts";
import { ImageServiceService } from "@fluxline/proto/fluxline/v1/image_service.ts";
import { ulid } from "ulid";
import { ImageServiceHandlers } from "./grpc/image-service.ts";
import { JobMirror } from "./job-mirror.ts";
import { LeaderClient } from "./leader-client.ts";
import { Leaderships, type Stores } from "./leaderships.ts";
import { PoolDirectory } from "./pool-directory.ts";
import { SchedulerMetrics } from "./scheduler-metrics.ts";

export interface SchedulerOptions {
  readonly bus: Bus;
  readonly address: string;
  readonly pools: readonly string[];
  readonly queuedJobsMax: number;
  readonly requestBytesMax: number;
  readonly natsReplicas: number;
  readonly storeSizeScale: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly registry: Registry;
}

const serviceName = "fluxline.v1.ImageService";
/** How much of their bucket records may fill; NATS needs the rest, for markers and for itself. */
const recordsShare = 0.5;
const loadMsMax = 120_000;
/** Calls in work when the drain begins have this long to end. */
const callsDrainMs = 5_000;

/** Starts everything; what was started is in `lifecycle`, also when this throws halfway. */
export async function startScheduler(
  options: SchedulerOptions,
  lifecycle: Lifecycle,
): Promise<GrpcServer> {
  const { bus, clock, log, queuedJobsMax } = options;
  const { natsReplicas: replicas, storeSizeScale: sizeScale } = options;
  await provisionStores(bus, { replicas, sizeScale });
  const stores = await openStores(bus);
  const metrics = new SchedulerMetrics(options.registry, () => leaderships.figures());
  const leaderships = new Leaderships({
    bus,
    stores,
    pools: options.pools,
    replica: ulid(clock.nowMs()),
    queuedJobsMax,
    recordBytesMax: jobsBucket.maxBytes * sizeScale * recordsShare,
    clock,
    log,
    count: (pool, what, label) => metrics.count(pool, what, label),
  });
  lifecycle.add({ name: "leaderships", drain: () => leaderships.drain() });
  const mirror = new JobMirror(bus, stores.jobs, log);
  lifecycle.add({ name: "job mirror", drain: () => mirror.stop() });
  const pools = new PoolDirectory({
    bus,
    kv: stores.pools,
    clock,
    log,
    configured: options.pools,
    onPool: (pool) => leaderships.compete(pool),
  });
  lifecycle.add({ name: "pool directory", drain: () => pools.stop() });
  await Promise.race([Promise.all([mirror.synced, pools.synced]), notLoaded()]);
  const leader = new LeaderClient(bus);
  const { jobs, results } = stores;
  const service = new ImageServiceHandlers({
    bus,
    jobs,
    results,
    mirror,
    pools,
    leader,
    queuedJobsMax,
    clock,
    log,
  });
  const server = await serveGrpc(
    {
      name: serviceName,
      service: ImageServiceService,
      handlers: service.handlers(),
      requestBytesMax: options.requestBytesMax,
      onCallEnd: (call) => {
        metrics.callEnded(call);
        if (call.error?.code === "internal") log.error(call, "call failed");
        else log.debug(call, "call ended");
      },
    },
    options.address,
  );
  lifecycle.add({ name: "gRPC server", drain: () => server.drain(callsDrainMs) });
  return server;
}

/** Records come by watch, which tries again without end while NATS is away: the start does not. */
async function notLoaded(): Promise<never> {
  await sleep(loadMsMax, undefined, { ref: false });
  const text = `the records in NATS were not loaded within ${loadMsMax / 1000} s: look at NATS`;
  throw new AppError("unavailable", `${text}, and start again`, { reason: "RECORDS_NOT_LOADED" });
}

async function openStores(bus: Bus): Promise<Stores> {
  const [jobs, pools, leaders, results, checkpoints] = await Promise.all([
    openKeyValue(bus, jobsBucket),
    openKeyValue(bus, poolsBucket),
    openKeyValue(bus, leadersBucket),
    openObjects(bus, resultsStore),
    openObjects(bus, checkpointsStore),
  ]);
  return { jobs, pools, leaders, results, checkpoints };
}
