/**
 * Width and height of a picture: which sizes a model makes, and which one an aspect ratio means.
 * A size that is not possible is answered with the nearest one that is.
 */
import type { FieldViolation } from "./error.ts";
import type { ModelProfile, RequestedImage } from "./image-request.ts";

export interface ImageSize {
  readonly width: number;
  readonly height: number;
}

export type SizeResolution =
  | { readonly ok: true; readonly size: ImageSize }
  | { readonly ok: false; readonly violations: readonly FieldViolation[] };

/** The size that was asked for: width and height, or an aspect ratio, or the model's default. */
export function resolveSize(profile: ModelProfile, requested: RequestedImage): SizeResolution {
  const { aspectRatio } = requested;
  if (aspectRatio === undefined) return resolveSides(profile, requested);
  if (requested.width === undefined && requested.height === undefined) {
    return resolveAspectRatio(profile, aspectRatio);
  }
  const description =
    `is ${shown(aspectRatio)} beside a width or height; ` +
    "give either aspect_ratio, or width and height";
  return refused([{ field: "aspect_ratio", description }]);
}

function resolveSides(profile: ModelProfile, requested: RequestedImage): SizeResolution {
  const size = {
    width: requested.width ?? profile.defaultWidth,
    height: requested.height ?? profile.defaultHeight,
  };
  const violations = [
    ...sideViolations(profile, "width", size.width),
    ...sideViolations(profile, "height", size.height),
  ];
  if (violations.length > 0) return refused(violations);
  if (size.width * size.height <= profile.maxPixels) return { ok: true, size };
  return refused([tooManyPixels(profile, size, requested.width === undefined)]);
}

function sideViolations(
  profile: ModelProfile,
  field: "width" | "height",
  side: number,
): readonly FieldViolation[] {
  const { sizeMultiple } = profile;
  const [low, high] = sideRange(profile);
  if (Number.isInteger(side / sizeMultiple) && side >= low && side <= high) return [];
  const rule = `use a multiple of ${sizeMultiple} from ${low} to ${high}`;
  if (!Number.isFinite(side)) return [{ field, description: `is ${side}; ${rule}` }];
  const nearest = nearestSide(profile, side);
  return [{ field, description: `is ${side}; ${rule}; the nearest is ${nearest}` }];
}

/** Smallest and largest side that is a multiple of what the model needs. */
function sideRange(profile: ModelProfile): readonly [low: number, high: number] {
  const { sizeMultiple, minSize, maxSize } = profile;
  const low = Math.max(1, Math.ceil(minSize / sizeMultiple)) * sizeMultiple;
  return [low, Math.floor(maxSize / sizeMultiple) * sizeMultiple];
}

function nearestSide(profile: ModelProfile, side: number): number {
  const [low, high] = sideRange(profile);
  const multiple = Math.round(side / profile.sizeMultiple) * profile.sizeMultiple;
  return Math.min(high, Math.max(low, multiple));
}

function tooManyPixels(
  profile: ModelProfile,
  { width, height }: ImageSize,
  widthIsDefault: boolean,
): FieldViolation {
  const fitting = fitPixels(profile, width, height, profile.maxPixels);
  const description =
    `${width} x ${height} is ${width * height} pixels; use at most ${profile.maxPixels}, ` +
    `for example ${fitting.width} x ${fitting.height}`;
  return { field: widthIsDefault ? "height" : "width", description };
}

const ASPECT_RATIO = /^(\d{1,5}(?:\.\d{1,5})?):(\d{1,5}(?:\.\d{1,5})?)$/;

function resolveAspectRatio(profile: ModelProfile, aspectRatio: string): SizeResolution {
  const parts = ASPECT_RATIO.exec(aspectRatio);
  const [across, down] = [Number(parts?.[1]), Number(parts?.[2])];
  if (parts === null || across === 0 || down === 0) {
    const description = `is ${shown(aspectRatio)}; use two numbers above 0, like 16:9 or 1:1`;
    return refused([{ field: "aspect_ratio", description }]);
  }
  const area = Math.min(profile.defaultWidth * profile.defaultHeight, profile.maxPixels);
  const [low, high] = sideRange(profile);
  const widest = Math.min((high * high) / area, area / (low * low));
  const ratio = across / down;
  if (ratio <= widest && ratio >= 1 / widest) {
    return { ok: true, size: fitPixels(profile, across, down, area, profile.maxPixels) };
  }
  const limit = Math.floor(widest * 100) / 100;
  const description = `is ${shown(aspectRatio)}; use a ratio between 1:${limit} and ${limit}:1`;
  return refused([{ field: "aspect_ratio", description }]);
}

/** The possible sizes of about the same shape that are smaller, the largest first. */
export function smallerSizes(profile: ModelProfile, { width, height }: ImageSize): ImageSize[] {
  const { sizeMultiple } = profile;
  const [low] = sideRange(profile);
  const longest = Math.max(width, height);
  const sizes: ImageSize[] = [];
  for (let side = longest - sizeMultiple; side >= low; side -= sizeMultiple) {
    const scale = side / longest;
    const size = {
      width: nearestSide(profile, width * scale),
      height: nearestSide(profile, height * scale),
    };
    sizes.push(size);
  }
  return sizes;
}

/** The possible size closest to `across : down` with about `area` and at most `limit` pixels. */
function fitPixels(
  profile: ModelProfile,
  across: number,
  down: number,
  area: number,
  limit = area,
): ImageSize {
  const unit = Math.sqrt(area / (across * down));
  let width = nearestSide(profile, across * unit);
  let height = nearestSide(profile, down * unit);
  while (width * height > limit) {
    if (width >= height) width -= profile.sizeMultiple;
    else height -= profile.sizeMultiple;
  }
  return { width, height };
}

function refused(violations: readonly FieldViolation[]): SizeResolution {
  return { ok: false, violations };
}

function shown(text: string): string {
  return JSON.stringify(text.length <= 40 ? text : `${text.slice(0, 40)}...`);
}
