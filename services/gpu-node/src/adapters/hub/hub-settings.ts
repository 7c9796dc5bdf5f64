/**
 * Where models come from and where they are kept, from the environment. Names that begin with HF_
 * mean what they mean to the hub's own programs; HF_HOME is only ever read.
 */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { type FieldViolation, invalidArgument } from "@fluxline/kernel/error.ts";
import { parseByteSize } from "../../core/hub/byte-size.ts";
import type { RetryLimits } from "../../core/hub/hub-retry.ts";
import { cacheFolder, type Environment, userCaches } from "../cache-folder.ts";

const MIB = 2 ** 20;
const DEFAULT_ENDPOINT = "https://huggingface.co";

/** Bounds of fetching; tests make them smaller. */
export interface FetchLimits {
  /** Requests at the same time, of one process. */
  readonly connections: number;
  /** Bytes of one request at most. */
  readonly pieceBytes: number;
  /** Bytes after which what came is made durable: at most this much of a piece is lost by a kill. */
  readonly syncBytes: number;
  /** The same after so long, for slow connections. */
  readonly syncMs: number;
  /** A gap of up to so many bytes between two ranges is fetched along. */
  readonly gapBytes: number;
  /** Without a byte for so long a connection is given up and the rest is asked for again. */
  readonly stallMs: number;
  /** Of the bytes of a file. */
  readonly retries: RetryLimits;
  /** Of what is asked first, which somebody waits for. */
  readonly firstRetries: RetryLimits;
  /** A lock whose holder has shown no life for so long is taken over. */
  readonly lockStaleMs: number;
  readonly lockHeartbeatMs: number;
  /** Free space that is left on the disk in any case. */
  readonly spareBytes: number;
}

export const FETCH_LIMITS: FetchLimits = {
  connections: 4,
  pieceBytes: 32 * MIB,
  syncBytes: 4 * MIB,
  syncMs: 1_000,
  gapBytes: MIB / 4,
  stallMs: 30_000,
  retries: { triesMax: 6, firstDelayMs: 500 },
  firstRetries: { triesMax: 4, firstDelayMs: 500 },
  lockStaleMs: 6_000,
  lockHeartbeatMs: 1_000,
  spareBytes: 64 * MIB,
};

export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly isOffline: boolean;
  /** Our own cache. */
  readonly cacheFolder: string;
  /** Undefined: as large as the disk. */
  readonly cacheBytesMax: number | undefined;
  /** The cache of the hub's own programs. */
  readonly hfCacheFolder: string;
  readonly limits: FetchLimits;
}

/** @throws AppError INVALID_CONFIG naming every variable that is wrong */
export function hubSettings(environment: Environment, limits = FETCH_LIMITS): HubSettings {
  const violations: FieldViolation[] = [];
  const hfHome = environment["HF_HOME"] || join(userCaches(environment), "huggingface");
  const endpoint = (environment["HF_ENDPOINT"] || DEFAULT_ENDPOINT).replace(/\/+$/, "");
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol)) {
    const description = `is "${endpoint}"; use an address like ${DEFAULT_ENDPOINT}`;
    violations.push({ field: "HF_ENDPOINT", description });
  }
  const limit = environment["FLUXLINE_CACHE_MAX"];
  const cacheBytesMax = limit ? parseByteSize(limit) : undefined;
  if (limit && cacheBytesMax === undefined) {
    const description = `is "${limit}"; use a size like 200GiB, or unset it for no limit`;
    violations.push({ field: "FLUXLINE_CACHE_MAX", description });
  }
  if (violations.length > 0) throw invalidArgument(violations, "INVALID_CONFIG");
  return {
    endpoint,
    token: environment["HF_TOKEN"]?.trim() || readToken(environment, hfHome),
    isOffline: /^(1|on|yes|true)$/i.test(environment["HF_HUB_OFFLINE"] ?? ""),
    cacheFolder: join(cacheFolder(environment), "hub"),
    cacheBytesMax,
    hfCacheFolder: resolve(environment["HF_HUB_CACHE"] || join(hfHome, "hub")),
    limits,
  };
}

function readToken(environment: Environment, hfHome: string): string | undefined {
  try {
    const file = environment["HF_TOKEN_PATH"] || join(hfHome, "token");
    return readFileSync(file, "utf8").trim() || undefined;
  } catch {
    return undefined; // nobody has logged in: public models need no token
  }
}
