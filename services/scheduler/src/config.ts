/** Settings of the scheduler; docs/scheduler-config.md is printed from this tree. */
import {
  list,
  onOff,
  positiveNumber,
  setting,
  text,
  wholeNumber,
} from "@fluxline/platform/config.ts";
import { logLevels } from "@fluxline/platform/log.ts";
import { z } from "zod";
import { QUEUED_JOBS_MAX } from "./core/limits.ts";

const mib = 1_048_576;

export const configTree = {
  host: setting("FLUXLINE_HOST", text.default("127.0.0.1"), "Address that gRPC listens on."),
  port: setting(
    "FLUXLINE_PORT",
    wholeNumber(0, 65_535).default(0),
    "Port of gRPC; 0 is any free one, printed at start.",
  ),
  natsUrl: setting("FLUXLINE_NATS_URL", text.default("nats://127.0.0.1:4222"), "Address of NATS."),
  natsUser: setting("FLUXLINE_NATS_USER", text.optional(), "User at NATS, if it asks for one."),
  natsPassword: setting("FLUXLINE_NATS_PASSWORD", text.optional(), "Password of that user."),
  natsWaitSeconds: setting(
    "FLUXLINE_NATS_WAIT_SECONDS",
    wholeNumber(0, 600).default(10),
    "How long to wait for NATS at the start.",
  ),
  natsReplicas: setting(
    "FLUXLINE_NATS_REPLICAS",
    wholeNumber(1, 5).default(1),
    "Copies of each bucket and store; 3 in a NATS cluster.",
  ),
  storeSizeScale: setting(
    "FLUXLINE_STORE_SIZE_SCALE",
    positiveNumber.default(1),
    "Multiplies the sizes that docs/bus.md lists.",
  ),
  pools: setting(
    "FLUXLINE_POOLS",
    list.default([]),
    "Pools that may be served, separated by commas; empty serves every pool that registers.",
  ),
  queuedJobsMax: setting(
    "FLUXLINE_QUEUED_JOBS_MAX",
    wholeNumber(1, 100_000).default(QUEUED_JOBS_MAX),
    "Jobs that may wait in one pool.",
  ),
  requestBytesMax: setting(
    "FLUXLINE_REQUEST_BYTES_MAX",
    wholeNumber(64 * 1024, 64 * mib).default(4 * mib),
    "Largest request that gRPC takes, in bytes.",
  ),
  metricsPort: setting(
    "FLUXLINE_METRICS_PORT",
    wholeNumber(-1, 65_535).default(-1),
    "Port of /metrics for Prometheus; 0 is any free one, -1 is off.",
  ),
  logLevel: setting("FLUXLINE_LOG_LEVEL", z.enum(logLevels).default("info"), "What is logged."),
  untilStdinEnds: setting(
    "FLUXLINE_UNTIL_STDIN_ENDS",
    onOff.default(false),
    "Stops when stdin ends, so that a parent that was killed leaves nothing behind.",
  ),
};
