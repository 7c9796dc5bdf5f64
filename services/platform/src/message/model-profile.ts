/** Between the kernel's `ModelProfile` and the one that pool records and registrations carry. */
import type { AdviceThresholds, ModelProfile } from "@fluxline/kernel/image-request.ts";
import type { ModelProfile as ProfileMessage } from "@fluxline/proto/fluxline/internal/v1/record.ts";

export function profileToMessage(profile: ModelProfile): ProfileMessage {
  const { advice, maxPixels, ...rest } = profile;
  return {
    ...rest,
    maxPixels: BigInt(maxPixels),
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
  const { advice, maxPixels, _unknownFields, ...rest } = message;
  return { ...rest, maxPixels: Number(maxPixels), advice: thresholds(advice ?? {}) };
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
