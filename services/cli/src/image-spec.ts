/** From the options of `generate` to the message that the server gets. */
import { AppError, invalidArgument } from "@fluxline/kernel/error.ts";
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
}

const formats: Readonly<Record<ImageFormat, OutputFormat>> = {
  png: OutputFormat.OUTPUT_FORMAT_PNG,
  jpeg: OutputFormat.OUTPUT_FORMAT_JPEG,
  webp: OutputFormat.OUTPUT_FORMAT_WEBP,
};

/** Only what the user said is set: every default is the model's. */
export function imageSpec(prompt: string, options: ImageOptions, format: ImageFormat): ImageSpec {
  refuseReplacementCharacter("PROMPT", prompt);
  refuseReplacementCharacter("--prompt-2", options.prompt2 ?? "");
  refuseReplacementCharacter("--negative-prompt", options.negativePrompt ?? "");
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
    outputFormat: formats[format],
  });
}

/** Node turns bytes that are not UTF-8 into U+FFFD; the prompt would not be the one typed. */
function refuseReplacementCharacter(field: string, text: string): void {
  const at = text.indexOf("\uFFFD");
  if (at < 0) return;
  const description =
    `holds U+FFFD at character ${at}, which stands for bytes that are not UTF-8; ` +
    "type the text in UTF-8";
  throw invalidArgument([{ field, description }], "INVALID_UTF8");
}

const promptBytesMax = 4 * 1024 * 1024;

/** The prompt itself, or what stdin says when the prompt is `-`. */
export async function readPrompt(given: string, stdin: NodeJS.ReadableStream): Promise<string> {
  if (given !== "-") return given;
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stdin) {
    chunks.push(Buffer.from(chunk));
    size += chunk.length;
    if (size > promptBytesMax) {
      const description = `has more than ${promptBytesMax} bytes; send a shorter text`;
      throw invalidArgument([{ field: "PROMPT", description }], "PROMPT_TOO_LONG");
    }
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks)).trimEnd();
  } catch (cause) {
    const description = "holds bytes that are not UTF-8; send the text as UTF-8";
    const { message, violations } = invalidArgument([{ field: "PROMPT", description }]);
    const options = { reason: "INVALID_UTF8", violations, cause };
    throw new AppError("invalid_argument", message, options);
  }
}
