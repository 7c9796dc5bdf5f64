/**
 * Request-reply and events with protobuf bodies. A command has three outcomes, not two: a reply;
 * certainly not delivered; and unknown, when no reply came in time. What is unknown may have been
 * acted on, so it is fenced or revoked by the caller and never sent again blindly.
 */
import { errors, type Msg, type Subscription } from "@nats-io/transport-node";
import { AppError, toAppError } from "@fluxline/kernel/error.ts";
import type { Bus } from "./connection.ts";

/** The part of generated message code that the bus needs. */
export interface Codec<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
}

export type Outcome<Reply> =
  | { readonly kind: "reply"; readonly value: Reply }
  /** Nobody listens, or the connection is down: nothing was acted on. */
  | { readonly kind: "undelivered"; readonly why: string }
  /** Sent, and no reply in time: it may have been acted on. */
  | { readonly kind: "unknown"; readonly why: string };

export interface Call<Request, Reply> {
  readonly subject: string;
  readonly request: Codec<Request>;
  readonly reply: Codec<Reply>;
  readonly body: Request;
  readonly timeoutMs: number;
}

export async function callBus<Request, Reply>(
  bus: Bus,
  call: Call<Request, Reply>,
): Promise<Outcome<Reply>> {
  const payload = call.request.encode(call.body).finish();
  bus.requireFits(call.subject, payload);
  if (!bus.connected) return { kind: "undelivered", why: "no connection to NATS" };
  let message: Msg;
  try {
    message = await bus.connection.request(call.subject, payload, { timeout: call.timeoutMs });
  } catch (thrown) {
    if (isNoResponders(thrown))
      return { kind: "undelivered", why: `nobody serves ${call.subject}` };
    return { kind: "unknown", why: thrown instanceof Error ? thrown.message : String(thrown) };
  }
  try {
    return { kind: "reply", value: call.reply.decode(message.data) };
  } catch (thrown) {
    return { kind: "unknown", why: `reply cannot be read: ${toAppError(thrown).message}` };
  }
}

function isNoResponders(thrown: unknown): boolean {
  if (thrown instanceof errors.NoRespondersError) return true;
  return thrown instanceof errors.RequestError && thrown.isNoResponders();
}

export interface Served {
  /** Takes no more requests and waits for those in work. */
  stop(): Promise<void>;
}

export interface Service<Request, Reply> {
  readonly subject: string;
  readonly request: Codec<Request>;
  readonly reply: Codec<Reply>;
  /** Members of one queue group share the requests; without it every subscriber gets each. */
  readonly queue?: string;
  /** Requests in work at a time; those above it get no reply, so their outcome is unknown. */
  readonly inFlightMax?: number;
  /** `undefined` gives no reply at all: another subscriber is the one to answer. */
  handle(request: Request, subject: string): Promise<Reply | undefined> | Reply | undefined;
  /** A request that cannot be decoded, a handler that throws, a refused subscription. */
  onError(error: AppError, subject: string): void;
}

const inFlightMaxDefault = 1_024;

export function serveBus<Request, Reply>(bus: Bus, service: Service<Request, Reply>): Served {
  const inFlight = new Set<Promise<void>>();
  const inFlightMax = service.inFlightMax ?? inFlightMaxDefault;
  const answer = async (message: Msg): Promise<void> => {
    try {
      const request = service.request.decode(message.data);
      const reply = await service.handle(request, message.subject);
      if (reply === undefined || !message.reply) return;
      const payload = service.reply.encode(reply).finish();
      bus.requireFits(message.subject, payload);
      message.respond(payload);
    } catch (thrown) {
      service.onError(toAppError(thrown), message.subject);
    }
  };
  const subscription = bus.connection.subscribe(service.subject, {
    ...(service.queue === undefined ? {} : { queue: service.queue }),
    callback: (error, message) => {
      if (error) return service.onError(subscriptionError(service.subject, error), service.subject);
      if (inFlight.size >= inFlightMax) {
        return service.onError(tooManyError(service.subject, inFlightMax), message.subject);
      }
      const work = answer(message).finally(() => inFlight.delete(work));
      inFlight.add(work);
    },
  });
  return {
    async stop() {
      await endSubscription(bus, subscription);
      await Promise.all(inFlight);
    },
  };
}

export interface Listener<T> {
  readonly subject: string;
  readonly message: Codec<T>;
  handle(message: T, subject: string): void;
  onError(error: AppError, subject: string): void;
}

/** Events: no reply, none kept for later, lost while the connection is down. */
export function listenBus<T>(bus: Bus, listener: Listener<T>): Served {
  const subscription = bus.connection.subscribe(listener.subject, {
    callback: (error, message) => {
      if (error) {
        return listener.onError(subscriptionError(listener.subject, error), listener.subject);
      }
      try {
        listener.handle(listener.message.decode(message.data), message.subject);
      } catch (thrown) {
        listener.onError(toAppError(thrown), message.subject);
      }
    },
  });
  return { stop: () => endSubscription(bus, subscription) };
}

/** Sends an event; false when it certainly was not sent. */
export function publishBus<T>(bus: Bus, subject: string, codec: Codec<T>, body: T): boolean {
  return bus.publish(subject, codec.encode(body).finish());
}

async function endSubscription(bus: Bus, subscription: Subscription): Promise<void> {
  if (subscription.isClosed()) return;
  if (bus.connected) await subscription.drain();
  else subscription.unsubscribe();
}

function subscriptionError(subject: string, cause: Error): AppError {
  return new AppError("permission_denied", `subscription to ${subject} ended: ${cause.message}`, {
    reason: "SUBSCRIPTION_ENDED",
    cause,
  });
}

function tooManyError(subject: string, limit: number): AppError {
  return new AppError("resource_exhausted", `${subject}: ${limit} requests are in work already`, {
    reason: "TOO_MANY_REQUESTS",
  });
}
