/**
 * What a driver and its stages say to each other over the stage link (docs in README.md).
 *
 *   driver -> stage k    begin            first on each link: whom it passes work to
 *                        retain, release  tensors that stay there between calls
 *                        call             a chain of graphs whose first one is to run there
 *                        stop             the group has handed over its work: end
 *   stage k -> stage k+1 call             the rest of the chain
 *   stage k -> driver    status           every second, and when something changes
 *                        retained         everything up to this sequence is kept
 *                        done, failed     of a call: from the last of the chain, or where it ended
 *                        drain            it has been asked to end: please drain the group
 */
import { assert } from "@fluxline/kernel/assert.ts";
import { AppError, type ErrorRecord } from "@fluxline/kernel/error.ts";
import type { NamedTensors } from "../core/tensor.ts";
import type { GraphCall, InputPart } from "./runner/device-runner.ts";
import {
  type PartHeader,
  PayloadWriter,
  type TensorHeader,
  tensorFrom,
  tensorsFrom,
} from "./runner/message.ts";
import type { StageResult } from "./stage-device.ts";
import type { LinkFrame } from "./stage-link/link.ts";

interface HopHeader {
  readonly graph: string;
  readonly inputs: Readonly<Record<string, readonly PartHeader[]>>;
  readonly outputs: readonly string[];
}

type TensorHeaders = Readonly<Record<string, TensorHeader>>;

export interface CallMessage {
  readonly kind: "call";
  readonly id: number;
  /** Incarnation of the driver that waits for the answer. */
  readonly driver: string;
  /** Of the hops before. */
  readonly seconds: readonly number[];
  /** The first is the receiver's; only its inputs have bytes in the payload. */
  readonly hops: readonly HopHeader[];
}

export type DriverToStage =
  | CallMessage
  | { readonly kind: "begin"; readonly next?: string }
  | {
      readonly kind: "retain";
      readonly sequence: number;
      readonly key: string;
      readonly tensors: TensorHeaders;
    }
  | { readonly kind: "release"; readonly key: string }
  | { readonly kind: "stop" };

export interface StageStatus {
  readonly kind: "status";
  readonly provider: string;
  /** Its graphs are loaded. */
  readonly ready: boolean;
  /** It can pass work on, or is the last. */
  readonly nextUp: boolean;
  readonly rssBytes: number;
  readonly restarts: number;
  readonly busySeconds: number;
  readonly upSeconds: number;
}

export type StageToDriver =
  | StageStatus
  | { readonly kind: "retained"; readonly sequence: number }
  | {
      readonly kind: "done";
      readonly id: number;
      readonly seconds: readonly number[];
      readonly tensors: TensorHeaders;
    }
  | { readonly kind: "failed"; readonly id: number; readonly error: ErrorRecord }
  | { readonly kind: "drain" };

/** A message with the bytes that belong to it. */
export interface Outgoing {
  readonly header: DriverToStage | StageToDriver;
  readonly parts: readonly Uint8Array[];
}

export type CallFacts = Pick<CallMessage, "id" | "driver" | "seconds">;

export function callMessage(facts: CallFacts, hops: readonly GraphCall[]): Outgoing {
  const writer = new PayloadWriter();
  const headers = hops.map(({ graph, inputs, outputs }, index): HopHeader => {
    const entries = Object.entries(inputs).map(([name, parts]) => {
      const written = parts.map((part): PartHeader => {
        if (!("tensor" in part)) return { from: "retained", key: part.key, name: part.name };
        // What a rank further behind needs of a step is retained there, or comes of its neighbour.
        assert(index === 0, `${name} of ${graph} would have to travel through other ranks`);
        return { from: "payload", tensor: writer.add(part.tensor) };
      });
      return [name, written];
    });
    return { graph, inputs: Object.fromEntries(entries), outputs };
  });
  return { header: { kind: "call", ...facts, hops: headers }, parts: writer.parts };
}

export function hopsOf({ hops }: CallMessage, payload: Uint8Array): GraphCall[] {
  return hops.map(({ graph, inputs, outputs }) => {
    const entries = Object.entries(inputs).map(([name, parts]): [string, InputPart[]] => [
      name,
      parts.map((part) =>
        part.from === "payload"
          ? { tensor: tensorFrom(part.tensor, payload) }
          : { key: part.key, name: part.name },
      ),
    ]);
    return { graph, inputs: Object.fromEntries(entries), outputs };
  });
}

export function retainMessage(sequence: number, key: string, tensors: NamedTensors): Outgoing {
  const writer = new PayloadWriter();
  const header = { kind: "retain", sequence, key, tensors: writer.addAll(tensors) } as const;
  return { header, parts: writer.parts };
}

export function doneMessage(id: number, { tensors, seconds }: StageResult): Outgoing {
  const writer = new PayloadWriter();
  const header = { kind: "done", id, seconds, tensors: writer.addAll(tensors) } as const;
  return { header, parts: writer.parts };
}

export function tensorsOf(headers: TensorHeaders, payload: Uint8Array): NamedTensors {
  return tensorsFrom(headers, payload);
}

/** The other end is of our release (the handshake compares protocols): only kinds are checked. */
export function driverToStage({ header }: LinkFrame): DriverToStage {
  return known<DriverToStage>(header, ["begin", "retain", "release", "call", "stop"]);
}

export function stageToDriver({ header }: LinkFrame): StageToDriver {
  return known<StageToDriver>(header, ["status", "retained", "done", "failed", "drain"]);
}

function known<T extends { readonly kind: string }>(header: unknown, kinds: T["kind"][]): T {
  const kind = (header as { kind?: unknown } | null | undefined)?.kind;
  if (kinds.some((one) => one === kind)) return header as T;
  const message = `a message of kind ${String(kind)} where ${kinds.join(", ")} may come`;
  throw new AppError("data_loss", message, { reason: "PROTOCOL_VIOLATION", retryable: true });
}

/** Nobody's fault: the call may be made again, over links and processes that are whole. */
export function stageLostError(what: string, cause?: unknown): AppError {
  const message = `a step was lost on its way through the stages: ${what}`;
  return new AppError("unavailable", message, { reason: "STAGE_LOST", retryable: true, cause });
}
