/**
 * Clients that keep requests in flight over real gRPC, as a program would: a request id, so that a
 * call whose answer was lost may be sent again; a watch that is begun anew when it breaks; the other
 * scheduler when one is away. Each picture is compared with the one of an undisturbed run.
 */
import { createHash, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { AppError } from "@fluxline/kernel/error.ts";
import { fromServiceError } from "@fluxline/platform/grpc/status.ts";
import { type ImageJob, ImageJob_State as State } from "@fluxline/proto/fluxline/v1/image_job.ts";
import {
  CreateImageJobRequest,
  ImageServiceClient,
} from "@fluxline/proto/fluxline/v1/image_service.ts";
import type { Request } from "./catalogue.ts";

/** A job that is not done by then is lost. */
const JOB_MS_MAX = 180_000;
const CALL_MS_MAX = 10_000;
const AGAIN_MS = 200;

export interface Drawn {
  readonly job: ImageJob;
  readonly id: string;
  /** SHA-256 of each image's file, in order. */
  readonly digests: readonly string[];
}

export class Client {
  readonly #stubs: readonly ImageServiceClient[];
  #turn: number;

  /** Begins with the `first` address and goes on to the next when one is away. */
  constructor(addresses: readonly string[], first: number) {
    this.#turn = first;
    this.#stubs = addresses.map(
      (address) =>
        new ImageServiceClient(address, credentials.createInsecure(), {
          "grpc.max_receive_message_length": -1,
          "grpc.initial_reconnect_backoff_ms": 100,
          "grpc.max_reconnect_backoff_ms": 500,
        }),
    );
  }

  close(): void {
    for (const stub of this.#stubs) stub.close();
  }

  /** Asks for a request's images and waits for them; throws when they do not come. */
  async draw(request: Request, expireMs: number | undefined): Promise<Drawn> {
    const deadlineMs = performance.now() + JOB_MS_MAX;
    const expireTime = expireMs === undefined ? undefined : new Date(Date.now() + expireMs);
    const message = CreateImageJobRequest.fromPartial({
      requestId: randomUUID(),
      spec: { ...request, ...(expireTime && { expireTime }) },
    });
    const { name } = await this.#persist(deadlineMs, (stub) =>
      unary<ImageJob>((done, options) =>
        stub.createImageJob(message, new Metadata(), options, done),
      ),
    );
    const job = await this.#persist(deadlineMs, (stub) => watched(stub, name, deadlineMs));
    if (job.state !== State.STATE_SUCCEEDED) {
      const why = job.error?.message ?? "without a reason";
      throw new Error(`${name} ended in state ${job.state}: ${why}`);
    }
    const digests: string[] = [];
    for (const { index, sha256 } of job.images) {
      const digest = await this.#persist(deadlineMs, (stub) => digestOf(stub, name, index));
      if (digest !== sha256) throw new Error(`${name}: image ${index} is not what the job says`);
      digests.push(digest);
    }
    return { job, id: name.split("/")[3] ?? "", digests };
  }

  /** Tries again, at the next address, what a retryable error ended, until the deadline. */
  async #persist<T>(
    deadlineMs: number,
    attempt: (stub: ImageServiceClient) => Promise<T>,
  ): Promise<T> {
    for (;;) {
      const stub = this.#stubs[this.#turn % this.#stubs.length]!;
      try {
        return await attempt(stub);
      } catch (thrown) {
        const error =
          thrown instanceof AppError ? thrown : fromServiceError(thrown as ServiceError);
        const again = error.retryable || error.code === "deadline_exceeded";
        if (!again || performance.now() > deadlineMs) throw error;
        this.#turn += 1;
        await sleep(AGAIN_MS);
      }
    }
  }
}

type Callback<T> = (error: ServiceError | null, value: T) => void;

function unary<T>(call: (done: Callback<T>, options: { deadline: number }) => unknown): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  call((error, value) => (error ? reject(error) : resolve(value)), {
    deadline: Date.now() + CALL_MS_MAX,
  });
  return promise;
}

/** Follows a job to its end. */
async function watched(
  stub: ImageServiceClient,
  name: string,
  deadlineMs: number,
): Promise<ImageJob> {
  const deadline = Date.now() + deadlineMs - performance.now();
  const stream = stub.watchImageJob({ name, resumeRevision: 0n }, { deadline });
  for await (const { job } of stream) {
    if (job !== undefined && job.state >= State.STATE_SUCCEEDED) {
      stream.cancel();
      return job;
    }
  }
  throw new AppError("unavailable", `the watch of ${name} ended early`, { retryable: true });
}

async function digestOf(stub: ImageServiceClient, name: string, index: number): Promise<string> {
  const hash = createHash("sha256");
  const options = { deadline: Date.now() + CALL_MS_MAX };
  for await (const { chunk } of stub.readImage({ name, index, offset: 0n }, options)) {
    hash.update(chunk);
  }
  return hash.digest("hex");
}
