/** Between the public `ImageSpec` and the kernel's requests. Shared by scheduler and GPU node. */
import type { ImageRequest, RequestedImage } from "@fluxline/kernel/image-request.ts";
import type { ImageSpec } from "@fluxline/proto/fluxline/v1/image_job.ts";

export function requestedImage(spec: ImageSpec): RequestedImage {
  return {
    prompt: spec.prompt,
    prompt2: spec.prompt2,
    negativePrompt: spec.negativePrompt,
    negativePrompt2: spec.negativePrompt2,
    trueCfgScale: spec.trueCfgScale,
    width: spec.width,
    height: spec.height,
    aspectRatio: spec.aspectRatio,
    steps: spec.numInferenceSteps,
    guidance: spec.guidanceScale,
    seed: spec.seed,
    maxSequenceLength: spec.maxSequenceLength,
    imageCount: spec.imageCount,
    previewCount: spec.previewCount,
  };
}

/** The spec with every default filled in, so that it repeats the request on its own. */
export function resolvedSpec(spec: ImageSpec, request: ImageRequest): ImageSpec {
  return {
    ...spec,
    prompt2: request.prompt2,
    negativePrompt: request.negativePrompt,
    negativePrompt2: request.negativePrompt2,
    trueCfgScale: request.trueCfgScale,
    width: request.width,
    height: request.height,
    aspectRatio: undefined,
    numInferenceSteps: request.steps,
    guidanceScale: request.guidance,
    seed: request.seed,
    maxSequenceLength: request.maxSequenceLength,
    imageCount: request.imageCount,
    previewCount: request.previewCount,
  };
}
