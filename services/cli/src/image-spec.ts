/** From the options of `generate` to the message that the server gets. */
import { ImageSpec, OutputFormat } from "@fluxline/proto/fluxline/v1/image_job.ts";
import type { ImageFormat } from "./output-file.ts";

export interface ImageOptions {
  readonly prompt2?: string;
  readonly negativePrompt?: string;
  readonly trueCfgScale?: number;
  readonly steps?: number;
  readonly guidance?: number;
  readonly width?: number;
  readonly height?: number;
  readonly seed?: bigint;
  readonly maxSequenceLength?: number;
  readonly count?: number;
  readonly previews?: number;
}

const formats: Readonly<Record<ImageFormat, OutputFormat>> = {
  png: OutputFormat.OUTPUT_FORMAT_PNG,
  jpeg: OutputFormat.OUTPUT_FORMAT_JPEG,
  webp: OutputFormat.OUTPUT_FORMAT_WEBP,
};

/** Only what the user said is set: every default is the model's. */
export function imageSpec(prompt: string, options: ImageOptions, format: ImageFormat): ImageSpec {
  return ImageSpec.fromPartial({
    prompt,
    prompt2: options.prompt2,
    negativePrompt: options.negativePrompt,
    trueCfgScale: options.trueCfgScale,
    numInferenceSteps: options.steps,
    guidanceScale: options.guidance,
    width: options.width,
    height: options.height,
    seed: options.seed,
    maxSequenceLength: options.maxSequenceLength,
    imageCount: options.count,
    previewCount: options.previews ?? 0,
    outputFormat: formats[format],
  });
}
