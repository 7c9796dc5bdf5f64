/**
 * From a request to the record that the leader is asked to admit: every limit checked, every
 * default filled in, every field whose feature comes later refused by its name.
 */
import { createHash } from "node:crypto";
import { AppError, type FieldViolation, invalidArgument } from "@fluxline/kernel/error.ts";
import { resolveRequest } from "@fluxline/kernel/image-request.ts";
import { retentionMsMax } from "@fluxline/platform/bus/topology.ts";
import { requestedImage, resolvedSpec } from "@fluxline/platform/message/image-spec.ts";
import { priorityClass } from "@fluxline/platform/message/priority.ts";
import { profileFromMessage } from "@fluxline/platform/message/model-profile.ts";
import { JobRecord as WireRecord } from "@fluxline/proto/fluxline/internal/v1/record.ts";
import { ImageSpec, OutputFormat, Priority } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { Duration } from "@fluxline/proto/google/protobuf/duration.ts";
import type { KnownPool } from "../pool-directory.ts";
import { recordSchemaVersion } from "../record-codec.ts";

const expireAfterMsDefault = 24 * 3_600_000;
const endUserIdBytesMax = 256;
const outputQualityDefault = 90;
const requestIdPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

export interface DraftInput {
  readonly pool: KnownPool;
  readonly tenant: string;
  readonly spec: ImageSpec | undefined;
  readonly requestId: string;
  readonly nowMs: number;
  /** Drawn anew for each call; taken when the request names none. */
  readonly seed: bigint;
  readonly ulid: string;
}

/** By what a repeat of a request is found; undefined without a usable request_id. */
export function repeatOf(
  request: Pick<DraftInput, "tenant" | "spec" | "requestId">,
): { readonly id: string; readonly fingerprint: string } | undefined {
  const { tenant, requestId } = request;
  if (!requestIdPattern.test(requestId)) return undefined;
  const spec = request.spec ?? ImageSpec.fromPartial({});
  return { id: idOfRequest(tenant, requestId), fingerprint: fingerprint(spec) };
}

/**
 * Throws INVALID_ARGUMENT with every wrong field, or UNIMPLEMENTED with every unknown one. What no
 * group has memory for is INVALID_ARGUMENT too, with the reason DOES_NOT_FIT: RESOURCE_EXHAUSTED
 * would say that the same request may do later, and it never will.
 */
export function draftRecord(input: DraftInput): WireRecord {
  const spec = input.spec ?? ImageSpec.fromPartial({});
  const { pool, nowMs } = input;
  refuseUnimplemented(spec);
  const profile = profileFromMessage(pool.profile);
  const resolution = resolveRequest(profile, requestedImage(spec), input.seed);
  const violations = [
    ...(resolution.ok ? [] : resolution.violations),
    ...outputViolations(spec),
    ...priorityViolations(spec),
    ...timeViolations(spec, nowMs),
    ...endUserViolations(spec),
  ].map(({ field, description }) => ({ field: `spec.${field}`, description }));
  violations.push(...requestIdViolations(input.requestId));
  if (!resolution.ok) throw invalidArgument(violations, resolution.reason);
  if (violations.length > 0) throw invalidArgument(violations);
  const { request } = resolution;
  const queueTimeoutMs = spec.queueTimeout && durationMs(spec.queueTimeout);
  const expireTime = spec.expireTime ?? new Date(nowMs + expireAfterMsDefault);
  const filled: ImageSpec = {
    ...resolvedSpec(spec, request),
    outputFormat: spec.outputFormat || OutputFormat.OUTPUT_FORMAT_PNG,
    outputQuality: isLossy(spec) ? (spec.outputQuality ?? outputQualityDefault) : undefined,
    priority: spec.priority || Priority.PRIORITY_STANDARD,
    expireTime,
  };
  return WireRecord.fromPartial({
    schemaVersion: recordSchemaVersion,
    pool: pool.pool,
    tenant: input.tenant,
    id: jobId(input),
    requestId: input.requestId,
    requestFingerprint: fingerprint(spec),
    spec: filled,
    advisories: [...resolution.advisories],
    units: Array.from({ length: request.imageCount }, (_, index) => ({ index })),
    modelDigest: pool.profile.digest,
    simulated: pool.simulated,
    createTime: new Date(nowMs),
    expireTime,
    ...(queueTimeoutMs === undefined ? {} : { queueDeadline: new Date(nowMs + queueTimeoutMs) }),
  });
}

function refuseUnimplemented(spec: ImageSpec): void {
  const given: Record<string, boolean> = {
    input_images: spec.inputImages.length > 0,
    mask: spec.mask !== undefined,
    strength: spec.strength !== undefined,
    webhook: spec.webhook !== undefined,
  };
  const fields = Object.keys(given).filter((field) => given[field]);
  if (fields.length === 0) return;
  const description = "is not available yet; leave it out";
  throw new AppError("unimplemented", `${fields.join(", ")}: ${description}`, {
    reason: "FIELD_NOT_IMPLEMENTED",
    violations: fields.map((field) => ({ field: `spec.${field}`, description })),
    details: { fields: fields.join(",") },
  });
}

function isLossy({ outputFormat }: ImageSpec): boolean {
  return (
    outputFormat === OutputFormat.OUTPUT_FORMAT_JPEG ||
    outputFormat === OutputFormat.OUTPUT_FORMAT_WEBP
  );
}

function outputViolations(spec: ImageSpec): FieldViolation[] {
  const violations: FieldViolation[] = [];
  const { outputFormat: format, outputQuality: quality } = spec;
  if (!(Object.values(OutputFormat) as number[]).includes(format) || format < 0) {
    violations.push({ field: "output_format", description: `is ${format}; use 1, 2 or 3` });
  }
  if (quality === undefined) return violations;
  if (quality < 1 || quality > 100) {
    const description = `is ${quality}; use a whole number from 1 to 100`;
    violations.push({ field: "output_quality", description });
  } else if (!isLossy(spec)) {
    const description = `is ${quality}, but png is without loss: leave it out, or use jpeg or webp`;
    violations.push({ field: "output_quality", description });
  }
  return violations;
}

function priorityViolations({ priority }: ImageSpec): FieldViolation[] {
  if (priorityClass(priority) !== undefined) return [];
  const description = `is ${priority}; use 1 (interactive), 2 (standard) or 3 (batch)`;
  return [{ field: "priority", description }];
}

function timeViolations(spec: ImageSpec, nowMs: number): FieldViolation[] {
  const violations: FieldViolation[] = [];
  const days = retentionMsMax / 86_400_000;
  if (spec.queueTimeout) {
    const ms = durationMs(spec.queueTimeout);
    if (ms <= 0 || ms > retentionMsMax) {
      const description = `is ${ms / 1000} s; use more than 0 s and at most ${days} days`;
      violations.push({ field: "queue_timeout", description });
    }
  }
  if (spec.expireTime) {
    const ms = spec.expireTime.getTime();
    if (!(ms > nowMs && ms <= nowMs + retentionMsMax)) {
      const shown = Number.isFinite(ms) ? spec.expireTime.toISOString() : "not a time";
      const description = `is ${shown}; use a time from now to ${days} days from now`;
      violations.push({ field: "expire_time", description });
    }
  }
  return violations;
}

function endUserViolations({ endUserId }: ImageSpec): FieldViolation[] {
  const bytes = Buffer.byteLength(endUserId);
  if (bytes <= endUserIdBytesMax) return [];
  const description = `has ${bytes} bytes; shorten it to at most ${endUserIdBytesMax}`;
  return [{ field: "end_user_id", description }];
}

function requestIdViolations(requestId: string): FieldViolation[] {
  if (requestId === "" || requestIdPattern.test(requestId)) return [];
  const description = `is "${requestId.slice(0, 64)}"; use a UUID, like the output of uuidgen`;
  return [{ field: "request_id", description }];
}

function durationMs({ seconds, nanos }: Duration): number {
  return Number(seconds) * 1000 + nanos / 1e6;
}

function jobId({ tenant, requestId, ulid }: DraftInput): string {
  return requestId === "" ? ulid.toLowerCase() : idOfRequest(tenant, requestId);
}

/** A repeat of a request finds the first one's job by its name. */
function idOfRequest(tenant: string, requestId: string): string {
  const hash = createHash("sha256").update(`${tenant}\n${requestId.toLowerCase()}`).digest("hex");
  return hash.slice(0, 32);
}

function fingerprint(spec: ImageSpec): string {
  return createHash("sha256").update(ImageSpec.encode(spec).finish()).digest("hex");
}
