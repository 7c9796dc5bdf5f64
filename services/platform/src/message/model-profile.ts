/** Between the kernel's `ModelProfile` and the one that pool records and registrations carry. */
import type { AdviceThresholds, ModelProfile } from "@fluxline/kernel/image-request.ts";
import type { MemoryBound } from "@fluxline/kernel/memory-bound.ts";
import type {
  MemoryBound as BoundMessage,
  ModelProfile as ProfileMessage,
} from "@fluxline/proto/fluxline/internal/v1/record.ts";

export function profileToMessage(profile: ModelProfile): ProfileMessage {
  const { advice, maxPixels, memory, ...rest } = profile;
  return {
    ...rest,
    maxPixels: BigInt(maxPixels),
    memory: memory.map(boundToMessage),
    advice: {
      guidanceLow: advice.guidanceLow,
      guidanceHigh: advice.guidanceHigh,
      stepsLow: advice.stepsLow,
      stepsHigh: advice.stepsHigh,
      sizeLow: advice.sizeLow,
      promptWordsLow: advice.promptWordsLow,
    },
  };
}

export function profileFromMessage(message: ProfileMessage): ModelProfile {
  const { advice, maxPixels, memory, _unknownFields, ...rest } = message;
  return {
    ...rest,
    maxPixels: Number(maxPixels),
    memory: memory.map(boundFromMessage),
    advice: thresholds(advice ?? {}),
  };
}

function boundToMessage(bound: MemoryBound): BoundMessage {
  return {
    ...bound,
    availableBytes: BigInt(Math.floor(bound.availableBytes)),
    fixedBytes: BigInt(Math.ceil(bound.fixedBytes)),
    decodePixelsMax: BigInt(bound.decodePixelsMax),
  };
}

function boundFromMessage({ _unknownFields, ...bound }: BoundMessage): MemoryBound {
  return {
    ...bound,
    availableBytes: Number(bound.availableBytes),
    fixedBytes: Number(bound.fixedBytes),
    decodePixelsMax: Number(bound.decodePixelsMax),
  };
}

/** Absent thresholds are left out, as the kernel's type wants it. */
function thresholds(
  message: Partial<Record<keyof AdviceThresholds, number | undefined>>,
): AdviceThresholds {
  const { guidanceLow, guidanceHigh, stepsLow, stepsHigh, sizeLow, promptWordsLow } = message;
  return {
    ...(guidanceLow !== undefined && { guidanceLow }),
    ...(guidanceHigh !== undefined && { guidanceHigh }),
    ...(stepsLow !== undefined && { stepsLow }),
    ...(stepsHigh !== undefined && { stepsHigh }),
    ...(sizeLow !== undefined && { sizeLow }),
    ...(promptWordsLow !== undefined && { promptWordsLow }),
  };
}
