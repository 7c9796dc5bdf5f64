/** Pixels as a file: PNG with its generation parameters in text chunks, JPEG or WebP. */
import { AppError } from "@fluxline/kernel/error.ts";
import type { Pixels } from "../core/image-model.ts";
import { withPngText } from "../core/png-text.ts";

export type ImageFormat = "png" | "jpeg" | "webp";

export const QUALITY_DEFAULT = 90;

export interface ImageFile {
  readonly bytes: Uint8Array;
  readonly contentType: `image/${ImageFormat}`;
}

/** `text`: keyword to content, written into PNG files only. */
export async function encodeImage(
  pixels: Pixels,
  format: ImageFormat,
  quality: number,
  text: ReadonlyMap<string, string>,
): Promise<ImageFile> {
  const { default: sharp } = await import("sharp");
  const { width, height, rgb } = pixels;
  const raw = sharp(rgb, { raw: { width, height, channels: 3 } });
  const contentType = `image/${format}` as const;
  try {
    switch (format) {
      case "png":
        return { bytes: withPngText(await raw.png().toBuffer(), text), contentType };
      case "jpeg":
        return { bytes: await raw.jpeg({ quality }).toBuffer(), contentType };
      case "webp":
        return { bytes: await raw.webp({ quality }).toBuffer(), contentType };
    }
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new AppError("internal", `cannot write ${width}x${height} as ${format}: ${why}`, {
      reason: "IMAGE_ENCODING_FAILED",
      cause,
    });
  }
}
