/**
 * A gRPC server whose handlers are plain async functions that throw AppErrors. Before a handler
 * runs, the request was checked for size and UTF-8 and decoded; after it, whatever it threw has
 * become a rich status. Health and reflection (v1 and v1alpha) are always there.
 *
 *   bytes -> size -> UTF-8 -> decode -> handler(request, call) -> reply | status with details
 */
import {
  type MethodDefinition,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type UntypedHandleCall,
} from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer, loadSync } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import type { DescMessage } from "@bufbuild/protobuf";
import { AppError, invalidArgument, toAppError } from "@fluxline/kernel/error.ts";
import { HealthImplementation, protoPath as healthProto } from "grpc-health-check";
import { readDescriptorSet, readRegistry } from "./descriptor.ts";
import { toServiceError } from "./status.ts";
import { findInvalidUtf8 } from "./utf8-check.ts";

type AnyMethod = MethodDefinition<never, never>;
type ServiceOf = Readonly<Record<string, AnyMethod | MethodDefinition<unknown, unknown>>>;
type RequestOf<M> = M extends { requestDeserialize: (bytes: Buffer) => infer R } ? R : never;
type ReplyOf<M> = M extends { responseDeserialize: (bytes: Buffer) => infer R } ? R : never;

export interface CallContext {
  /**
   * Aborts when nobody waits any more: reason `cancelled` (the client went away),
   * `deadline_exceeded`, or for streams `unavailable` (this server shuts down).
   */
  readonly signal: AbortSignal;
}

export interface StreamWriter<Reply> {
  /** Resolves when there is room for more; throws the signal's reason once nobody reads. */
  write(reply: Reply): Promise<void>;
}

export type UnaryHandler<Request, Reply> = (request: Request, call: CallContext) => Promise<Reply>;
export type StreamHandler<Request, Reply> = (
  request: Request,
  writer: StreamWriter<Reply>,
  call: CallContext,
) => Promise<void>;

export type Handlers<Service> = {
  readonly [Name in keyof Service]: Service[Name] extends { responseStream: true }
    ? StreamHandler<RequestOf<Service[Name]>, ReplyOf<Service[Name]>>
    : UnaryHandler<RequestOf<Service[Name]>, ReplyOf<Service[Name]>>;
};

export interface GrpcServerOptions<Service> {
  /** Full name, like `fluxline.v1.ImageService`. */
  readonly name: string;
  readonly service: Service;
  readonly handlers: Handlers<Service>;
  readonly requestBytesMax: number;
  /** Told of every call that ended: for metrics and logs. `error` is absent on success. */
  readonly onCallEnd?: (call: EndedCall) => void;
}

export interface EndedCall {
  readonly method: string;
  readonly durationMs: number;
  readonly error: AppError | undefined;
}

export interface GrpcServer {
  /** host:port that is listened on. */
  readonly address: string;
  /** Shown by the health service; a new server is serving. */
  setServing(serving: boolean): void;
  /** Accepts nothing new, ends streams with UNAVAILABLE, waits for the rest; bounded. */
  drain(timeoutMs: number): Promise<void>;
}

/** grpc-js itself refuses above this without details; between the two limits ours are given. */
const hardLimitFactor = 16;

export async function serveGrpc<Service extends object>(
  options: GrpcServerOptions<Service>,
  address: string,
): Promise<GrpcServer> {
  const server = new Server({
    "grpc.max_receive_message_length": options.requestBytesMax * hardLimitFactor,
  });
  const draining = new AbortController();
  addService(server, options, draining.signal);
  const health = new HealthImplementation({ "": "SERVING", [options.name]: "SERVING" });
  health.addToServer(server);
  const described = {
    ...loadFileDescriptorSetFromBuffer(readDescriptorSet()),
    ...loadSync(healthProto),
  };
  const services = [options.name, "grpc.health.v1.Health"];
  new ReflectionService(described, { services }).addToServer(server);
  const port = await bind(server, address);
  const setServing = (serving: boolean): void => {
    for (const name of ["", options.name]) {
      health.setStatus(name, serving ? "SERVING" : "NOT_SERVING");
    }
  };
  return {
    address: `${address.slice(0, address.lastIndexOf(":"))}:${port}`,
    setServing,
    async drain(timeoutMs) {
      setServing(false);
      draining.abort(
        new AppError("unavailable", "this server shuts down: call again", {
          reason: "SHUTTING_DOWN",
          retryAfterMs: 1_000,
        }),
      );
      await shutdown(server, timeoutMs);
    },
  };
}

function addService<Service extends object>(
  server: Server,
  options: GrpcServerOptions<Service>,
  draining: AbortSignal,
): void {
  const registry = readRegistry();
  const description = registry.getService(options.name);
  if (!description) throw new AppError("internal", `no description of service ${options.name}`);
  const inputs = new Map(description.methods.map((method) => [method.localName, method.input]));
  const definition: Record<string, MethodDefinition<unknown, unknown>> = {};
  const implementation: Record<string, UntypedHandleCall> = {};
  for (const [name, given] of Object.entries(options.service as ServiceOf)) {
    const method = given as MethodDefinition<unknown, unknown>;
    const input = inputs.get(name);
    if (!input) throw new AppError("internal", `no description of method ${name}`);
    const deserialize = (bytes: Buffer) =>
      decodeRequest(method, input, bytes, options.requestBytesMax);
    definition[name] = { ...method, requestDeserialize: deserialize };
    const handler = (options.handlers as Record<string, unknown>)[name];
    const observed = { name, onCallEnd: options.onCallEnd };
    implementation[name] = method.responseStream
      ? streamCall(handler as StreamHandler<unknown, unknown>, observed, draining)
      : unaryCall(handler as UnaryHandler<unknown, unknown>, observed);
  }
  server.addService(definition, implementation);
}

/** grpc-js answers a throwing decoder with INTERNAL, so a bad request travels as a value. */
type Decoded = { readonly request: unknown } | { readonly error: AppError };

function decodeRequest(
  method: MethodDefinition<unknown, unknown>,
  input: DescMessage,
  bytes: Buffer,
  bytesMax: number,
): Decoded {
  if (bytes.length > bytesMax) {
    const text = `request has ${bytes.length} bytes; at most ${bytesMax} are taken: send less`;
    const details = { subject: "request", bytes: `${bytes.length}`, bytesMax: `${bytesMax}` };
    return {
      error: new AppError("resource_exhausted", text, { reason: "MESSAGE_TOO_LARGE", details }),
    };
  }
  try {
    const invalid = findInvalidUtf8(input, bytes);
    if (invalid.length > 0) {
      const description = "holds bytes that are not UTF-8: encode the text as UTF-8";
      return { error: invalidArgument(invalid.map((field) => ({ field, description }))) };
    }
    return { request: method.requestDeserialize(bytes) };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const text = `request is not a ${input.typeName} message (${why})`;
    return {
      error: new AppError("invalid_argument", text, { reason: "MALFORMED_MESSAGE", cause }),
    };
  }
}

interface Observed {
  readonly name: string;
  readonly onCallEnd: ((call: EndedCall) => void) | undefined;
}

function unaryCall(
  handler: UnaryHandler<unknown, unknown>,
  observed: Observed,
): (
  call: ServerUnaryCall<Decoded, unknown>,
  callback: (error: ReturnType<typeof toServiceError> | null, reply?: unknown) => void,
) => void {
  return (call, callback) => {
    const startMs = performance.now();
    const signal = goneSignal(call);
    const run = async () => {
      if ("error" in call.request) throw call.request.error;
      return handler(call.request.request, { signal });
    };
    run().then(
      (reply) => {
        end(observed, startMs, undefined);
        callback(null, reply);
      },
      (thrown) => callback(toServiceError(end(observed, startMs, thrown))),
    );
  };
}

function streamCall(
  handler: StreamHandler<unknown, unknown>,
  observed: Observed,
  draining: AbortSignal,
): (call: ServerWritableStream<Decoded, unknown>) => void {
  return (call) => {
    const startMs = performance.now();
    const signal = AbortSignal.any([goneSignal(call), draining]);
    const writer: StreamWriter<unknown> = {
      async write(reply) {
        signal.throwIfAborted();
        if (call.write(reply)) return;
        await drained(call, signal);
      },
    };
    const run = async () => {
      if ("error" in call.request) throw call.request.error;
      await handler(call.request.request, writer, { signal });
    };
    run().then(
      () => {
        end(observed, startMs, undefined);
        call.end();
      },
      (thrown) => {
        const error = end(observed, startMs, thrown);
        call.emit("error", toServiceError(error));
      },
    );
  };
}

/** Ends bookkeeping; what the client sees of an unexpected error names it, not its inside. */
function end(observed: Observed, startMs: number, thrown: unknown): AppError {
  const error = thrown === undefined ? undefined : toAppError(thrown);
  observed.onCallEnd?.({ method: observed.name, durationMs: performance.now() - startMs, error });
  if (error?.code !== "internal") return error ?? new AppError("internal", "no error");
  return new AppError("internal", "an error of ours; the server's log has its cause", {
    reason: error.reason,
  });
}

function goneSignal(call: {
  on(event: "cancelled", listener: () => void): unknown;
  getDeadline(): Date | number;
}): AbortSignal {
  const gone = new AbortController();
  call.on("cancelled", () => {
    const late = Number(call.getDeadline()) <= Date.now();
    const error = late
      ? new AppError("deadline_exceeded", "the call's deadline passed")
      : new AppError("cancelled", "the client went away");
    gone.abort(error);
  });
  return gone.signal;
}

async function drained(
  call: ServerWritableStream<Decoded, unknown>,
  signal: AbortSignal,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = () => reject(signal.reason as Error);
  call.once("drain", resolve);
  signal.addEventListener("abort", abort, { once: true });
  try {
    await promise;
  } finally {
    call.off("drain", resolve);
    signal.removeEventListener("abort", abort);
  }
}

async function bind(server: Server, address: string): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) => {
    if (!error) return resolve(port);
    reject(
      new AppError(
        "failed_precondition",
        `cannot listen on ${address} (${error.message}): the port may be taken; choose another ` +
          "one, or port 0 for any free one",
        { reason: "ADDRESS_UNAVAILABLE", cause: error },
      ),
    );
  });
  return promise;
}

async function shutdown(server: Server, timeoutMs: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    server.forceShutdown();
    resolve();
  }, timeoutMs);
  server.tryShutdown(() => resolve());
  await promise;
  clearTimeout(timer);
}
