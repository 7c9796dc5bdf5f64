/**
 * The gRPC client of the command line: promises and async iterables in, AppErrors out. Unary calls
 * have a deadline; streams live as long as the server answers its keep-alive.
 */
import { credentials, type ClientReadableStream, Metadata, type ServiceError } from "@grpc/grpc-js";
import { AppError, type ErrorCode } from "@fluxline/kernel/error.ts";
import { fromServiceError } from "@fluxline/platform/grpc/status.ts";
import {
  type GenerateImageRequest,
  type GenerateImageResponse,
  type ImageJobEvent,
  ImageServiceClient,
  type ListImageJobsRequest,
  type ListImageJobsResponse,
  type ReadImageResponse,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import type { ImageJob } from "@fluxline/proto/fluxline/v1/image_job.ts";
import { checkServer } from "./address.ts";
import type { Pool } from "@fluxline/proto/fluxline/v1/pool.ts";

const unaryMsMax = 30_000;

/** Only UNAVAILABLE is tried again; a request id makes that safe for calls that create. */
const serviceConfig = {
  methodConfig: [
    {
      name: [{ service: "fluxline.v1.ImageService" }],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
};

const channelOptions = {
  "grpc.service_config": JSON.stringify(serviceConfig),
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // A local server that restarts is back soon.
  "grpc.initial_reconnect_backoff_ms": 200,
  "grpc.max_reconnect_backoff_ms": 2_000,
};

type Callback<T> = (error: ServiceError | null, value: T) => void;

export class ImageClient {
  readonly server: string;
  readonly #client: ImageServiceClient;

  /** `server` is HOST:PORT; the connection is made at the first call. */
  constructor(server: string) {
    checkServer(server);
    this.server = server;
    this.#client = new ImageServiceClient(server, credentials.createInsecure(), channelOptions);
  }

  close(): void {
    this.#client.close();
  }

  generate(request: GenerateImageRequest, signal: AbortSignal): Stream<GenerateImageResponse> {
    return this.#stream(this.#client.generateImage(request), signal);
  }

  watch(name: string, resumeRevision: bigint, signal: AbortSignal): Stream<ImageJobEvent> {
    return this.#stream(this.#client.watchImageJob({ name, resumeRevision }), signal);
  }

  readImage(name: string, index: number, signal: AbortSignal): Stream<ReadImageResponse> {
    return this.#stream(this.#client.readImage({ name, index, offset: 0n }), signal);
  }

  getJob(name: string): Promise<ImageJob> {
    return this.#unary((callback) =>
      this.#client.getImageJob({ name }, new Metadata(), deadline(), callback),
    );
  }

  cancelJob(name: string): Promise<ImageJob> {
    return this.#unary((callback) =>
      this.#client.cancelImageJob({ name }, new Metadata(), deadline(), callback),
    );
  }

  listJobs(request: ListImageJobsRequest): Promise<ListImageJobsResponse> {
    return this.#unary((callback) =>
      this.#client.listImageJobs(request, new Metadata(), deadline(), callback),
    );
  }

  async listPools(): Promise<readonly Pool[]> {
    const request = { pageSize: 0, pageToken: "" };
    const { pools } = await this.#unary<{ pools: Pool[] }>((callback) =>
      this.#client.listPools(request, new Metadata(), deadline(), callback),
    );
    return pools;
  }

  #unary<T>(call: (callback: Callback<T>) => unknown): Promise<T> {
    return new Promise((resolve, reject) => {
      call((error, value) => (error ? reject(this.#explain(error)) : resolve(value)));
    });
  }

  async *#stream<T>(call: ClientReadableStream<T>, signal: AbortSignal): Stream<T> {
    const onAbort = () => call.cancel();
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      for await (const message of call) yield message as T;
    } catch (thrown) {
      throw this.#explain(thrown as ServiceError);
    } finally {
      signal.removeEventListener("abort", onAbort);
      call.cancel();
    }
  }

  /** An error without our details comes from the connection, not from a Fluxline server. */
  #explain(error: ServiceError): AppError {
    const explained = fromServiceError(error);
    const ours = explained.cause === undefined;
    if (ours || !brokenConnection.has(explained.code)) return explained;
    return new AppError(
      "unavailable",
      `no Fluxline server answers at ${this.server} (${error.details}); ` +
        "start one with `fluxline up`, or name another one with --server HOST:PORT",
      { reason: "SERVER_UNREACHABLE", cause: error },
    );
  }
}

/** What grpc-js makes of a connection that is refused, or that breaks in the middle of a call. */
const brokenConnection: ReadonlySet<ErrorCode> = new Set(["unavailable", "internal", "cancelled"]);

export type Stream<T> = AsyncGenerator<T, void, undefined>;

const deadline = () => ({ deadline: Date.now() + unaryMsMax });
